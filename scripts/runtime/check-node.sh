#!/bin/sh
# Whether a running node is well: a line a check, what and where. Asks, and changes nothing.
set -eu

usage() {
	cat <<'END'
check-node.sh [--node mini] [--service NAME]... [OPTION...]

Asks conductor, codexd and status-api, and launchd where there is launchctl. The addresses are those of the options, or of
the installed copies, or of the node. Each question has 5 s. With --shared-token-file conductor is shown the token, which it
wants to see where BAA_CONDUCTOR_AUTH=all. Exit 1 if any check fails. Sessions are codexd-e2e-smoke.sh's business.

END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/runtime/lib.sh
. "$root/scripts/runtime/lib.sh"
options "$@"
command -v curl >/dev/null || die 'curl is missing'
make_temp
umask 077
# In a file, since others see a command's arguments.
[ -z "$shared_token_file" ] || shared_token=$(cat "$shared_token_file")
shared_token=$(printf '%s' "$shared_token" | sed 's/["\\]/\\&/g')
printf '%s' "${shared_token:+header = \"authorization: Bearer $shared_token\"}" >"$temp/curlrc"

# says SERVICE PATH TEXT: that the body is this.
says() {
	fetch "$(base "$1")$2"
	got=$(sed 1q "$temp/body" | cut -c 1-200)
	[ "$status" != 000 ] || got=$fault
	check "$1 GET $url" "$got" "$3"
}

# ask SERVICE PATH: that it answers with 200; its JSON is then what shows looks into.
ask() {
	fetch "$(base "$1")$2" -K "$temp/curlrc"
	asked="$1 GET $url"
	[ "$status" != 000 ] || status=$fault
	check "$asked" "$status" 200
}

# shows FIELD EXPECTED: a field of what was asked for.
shows() {
	check "$asked $1" "$(json "$1" <"$temp/body")" "$2"
}

# json FIELD: `data.service.listening` of our daemons' own JSON, which has a field a line, indented by two spaces.
json() {
	awk -v wanted="$1" '
		{ depth = int((match($0, /[^ ]/) - 1) / 2); name[depth] = "" }
		/^ *"[A-Za-z_]+": / {
			sub(/^ *"/, "")
			at = index($0, "\"")
			name[depth] = substr($0, 1, at - 1)
			path = name[1]
			for (i = 2; i <= depth; i++) path = path "." name[i]
			if (path != wanted) next
			value = substr($0, at + 3)
			sub(/,$/, "", value)
			gsub(/^"|"$/, "", value)
			print value
			exit
		}'
}

loaded() {
	case $supervisor in
	systemd) check "$1 systemctl --user is-active $(label "$1")" "$(systemctl --user is-active "$(label "$1")" 2>&1)" active ;;
	*)
		command -v launchctl >/dev/null || return 0
		state=$(launchctl print "$domain/$(label "$1")" 2>&1 | sed -n 's/^[[:space:]]state = //p' | head -n 1)
		check "$1 launchctl print $domain/$(label "$1")" "${state:-not loaded}" running
		;;
	esac
}

for service in $services; do
	loaded "$service"
	says "$service" /healthz ok
	case $service in
	conductor)
		says conductor /readyz ready
		says conductor /rolez leader
		ask conductor /v1/codex
		shows data.backend independent_codexd
		shows data.proxy.target_base_url "$(base codexd)"
		shows data.daemon.child.status running
		;;
	codexd)
		ask codexd /v1/codexd/status
		shows data.service.listening true
		shows data.snapshot.daemon.started true
		shows data.snapshot.daemon.child.status running
		;;
	status-api)
		ask status-api /v1/status
		shows data.conductor.ok true
		shows data.codexd.ok true
		shows data.queue.ok true
		;;
	esac
done
summary
