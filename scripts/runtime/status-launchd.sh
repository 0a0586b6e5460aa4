#!/bin/sh
# How the services are: what launchd (or systemd) says of each, its /healthz, and codexd's status.
set -eu

usage() {
	cat <<'END'
status-launchd.sh [--service NAME]... [OPTION...]

Shows of each service what launchd says and its /healthz, and of codexd /v1/codexd/status. Exit 69 if one does not answer.

END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/runtime/lib.sh
. "$root/scripts/runtime/lib.sh"
options "$@"
need_supervisor
make_temp

code=0
# show URL: its body, or why there is none.
show() {
	fetch "$1"
	if [ "$status" = 200 ]; then
		printf '%s: ' "$1" && clean <"$temp/body"
	else
		[ "$status" != 000 ] || status=$fault
		printf '%s: %s\n' "$1" "$status"
		code=69
	fi
}

for service in $services; do
	printf '== %s\n' "$(label "$service")"
	case $supervisor in
	systemd) systemctl --user --no-pager --lines 0 status "$(label "$service")" || : ;;
	*)
		launchctl print "$domain/$(label "$service")" >"$temp/printed" 2>&1 || echo "launchd does not know it in $domain"
		grep -E '^[[:space:]](state|pid|runs|last exit code) = ' "$temp/printed" || :
		;;
	esac
	show "$(base "$service")/healthz"
	[ "$service" != codexd ] || show "$(base codexd)/v1/codexd/status"
done
exit "$code"
