# What the operator's scripts share: their options, the node's services, how launchd or systemd is asked, and how the daemons
# are. Sourced, not run; wants $root and usage(). Needs no more than sh, awk, sed and curl.
# shellcheck shell=sh disable=SC2034,SC2154 # its variables are those of the script

# Seconds that one question over HTTP may take: the daemons answer all of these from memory.
max_time=5
# Seconds in which a service must be gone, or be there: more than ExitTimeOut and ThrottleInterval together.
patience=30

tab=$(printf '\t')
all_services='codexd conductor status-api'
services=
supervisor=launchd
node=mini
scope=agent
repo_dir=$root
bin_dir=
home_dir=${HOME:-}
install_dir=
codex=codex
path=
control_api_base=
local_api_base=
codexd_local_api_base=
status_api_base=
shared_token=
shared_token_file=

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

wrong() {
	printf '%s: %s; --help says what can be said\n' "${0##*/}" "$*" >&2
	exit 2
}

# The options are the same for all of these scripts, so that one line of them serves for all; each uses what it needs.
usage_of_options() {
	cat <<'END'
Options, the same for all of these scripts (each uses what it needs):
  --service NAME               conductor, codexd or status-api; repeatable, all three by default
  --node NAME                  a known node: mini (id mini-main, host mini, all on loopback); the default
  --scope agent|daemon         of a user who is logged in (default), or of the system: as root, run as the owner of --home-dir
  --systemd                    systemd user units instead of launchd
  --repo-dir DIR               where state, logs and runs lie; this checkout by default
  --bin-dir DIR                where the programs are; REPO/bin, or else REPO/target/release
  --home-dir DIR               the home that services have; $HOME by default
  --codex COMMAND              the `codex` that codexd runs; the one on the services' PATH by default
  --path DIRS                  what comes first on the services' PATH: a folder, or several with colons between them
  --install-dir DIR            where rendered copies lie; ~/Library/LaunchAgents, /Library/LaunchDaemons, ~/.config/systemd/user
  --local-api-base URL         conductor, http://127.0.0.1:4317 by default
  --codexd-local-api-base URL  codexd, http://127.0.0.1:4319
  --status-api-base URL        status-api, http://127.0.0.1:4318
  --control-api-base URL       where a public reverse proxy shows conductor; none by default
  --shared-token-file FILE     file with the node's token, which conductor needs; its owner's alone
  --shared-token TOKEN         the token itself, which others see in `ps` while this runs: better a file
  --help                       this text
END
}

options() {
	while [ $# -gt 0 ]; do
		case $1 in
		-h | --help)
			usage
			usage_of_options
			exit 0
			;;
		--systemd)
			supervisor=systemd
			shift
			continue
			;;
		--*=*)
			option=${1%%=*} value=${1#*=}
			shift
			;;
		--*)
			option=$1 value=${2:-}
			shift
			[ $# -eq 0 ] || shift
			;;
		*) wrong "unexpected argument \`$1\`" ;;
		esac
		option "$option" "$value"
	done
	[ "$supervisor $scope" != 'systemd daemon' ] || wrong "--scope daemon is launchd's: systemd's units are the user's"
	[ -n "$home_dir" ] || wrong '--home-dir is needed where HOME is not set'
	services=${services:-$all_services}
	: "${bin_dir:=$([ -x "$repo_dir/bin/codexd" ] && echo "$repo_dir/bin" || echo "$repo_dir/target/release")}"
	case $supervisor$bin_dir in systemd*[\'\"]*) wrong "systemd takes no program with quotes in its path, $bin_dir" ;; esac
	case $supervisor$scope in
	systemd*) : "${install_dir:=$home_dir/.config/systemd/user}" ;;
	*agent) : "${install_dir:=$home_dir/Library/LaunchAgents}" ;;
	*) : "${install_dir:=/Library/LaunchDaemons}" ;;
	esac
	case $scope in agent) domain=gui/$(id -u) ;; *) domain=system ;; esac
}

# option NAME VALUE: takes one, checked.
option() {
	# What no form of a rendered file can hold; a path or token that has it is a mistake.
	case $2 in *[[:cntrl:]]* | *\\*) wrong "$1: a value has no control characters and no backslash" ;; esac
	case $1 in
	--service | --node | --scope | --repo-dir | --bin-dir | --home-dir | --install-dir | --local-api-base | \
		--codexd-local-api-base | --status-api-base | --control-api-base | --shared-token | --shared-token-file | --codex | --path)
		[ -n "$2" ] || wrong "$1 needs a value"
		;;
	esac
	case $1 in
	--service)
		case " $all_services " in *" $2 "*) ;; *) wrong "--service: \`$2\` is none of $all_services" ;; esac
		case " $services " in *" $2 "*) ;; *) services="$services $2" ;; esac
		;;
	--node) [ "$2" = mini ] || wrong "--node: \`$2\` is not known; known is mini" ;;
	--scope)
		case $2 in agent | daemon) ;; *) wrong "--scope: \`$2\` is none of agent, daemon" ;; esac
		scope=$2
		;;
	--repo-dir) repo_dir=$(absolute "$2") ;;
	--bin-dir) bin_dir=$(absolute "$2") ;;
	--home-dir) home_dir=$(absolute "$2") ;;
	--install-dir) install_dir=$(absolute "$2") ;;
	--codex) codex=$2 ;;
	--path) path=$2 ;;
	--local-api-base) local_api_base=${2%/} && is_base "$@" ;;
	--codexd-local-api-base)
		codexd_local_api_base=${2%/}
		is_base "$@"
		is_loopback "${2%/}" || wrong "$1: \`$2\` is not loopback, and codexd listens nowhere else"
		;;
	--status-api-base) status_api_base=${2%/} && is_base "$@" ;;
	--control-api-base)
		control_api_base=${2%/}
		case $2 in http://?* | https://?*) ;; *) wrong "$1: \`$2\` is no http or https URL" ;; esac
		;;
	--shared-token) shared_token=$2 ;;
	--shared-token-file)
		shared_token_file=$(absolute "$2")
		fault=$(token_fault "$shared_token_file")
		[ -z "$fault" ] || wrong "$1: $shared_token_file $fault"
		;;
	*) wrong "there is no option $1" ;;
	esac
}

absolute() {
	if [ -d "$1" ]; then
		(CDPATH='' cd -- "$1" && pwd)
	else
		case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
	fi
}

# is_base OPTION URL: that it is http://HOST:PORT.
is_base() {
	rest=${2#http://} && rest=${rest%/}
	case $2 in http://*:*) ;; *) rest= ;; esac
	case ${rest%:*} in '' | *[!][A-Za-z0-9.:-]*) rest= ;; esac
	case ${rest##*:} in
	'' | *[!0-9]* | ??????*) wrong "$1: \`$2\` is no URL of the form http://HOST:PORT" ;;
	esac
	[ "${rest##*:}" -le 65535 ] || wrong "$1: \`$2\` has a port over 65535"
}

host_of() {
	rest=${1#http://} && rest=${rest%:*} && rest=${rest#[} && echo "${rest%]}"
}

is_loopback() {
	case $(host_of "$1") in
	localhost | ::1) ;;
	127.*[!0-9.]*) return 1 ;;
	127.*.*.*) ;;
	*) return 1 ;;
	esac
}

# permissions PATH: `-rw-------`. `stat` has other flags on each system.
permissions() {
	# shellcheck disable=SC2012 # one path, of which the name is not read
	ls -ld "$1" | cut -c 1-10
}

owner() {
	# shellcheck disable=SC2012 # the same
	ls -ld "$1" | awk '{ print $3 }'
}

# What is wrong with a token's file, if anything is.
token_fault() {
	if [ ! -f "$1" ] || [ ! -r "$1" ]; then
		echo 'cannot be read'
	elif ! grep -q '[^[:space:]]' "$1"; then
		echo 'is empty'
	elif [ "$(grep -c '' "$1")" -gt 1 ] || LC_ALL=C grep -q '[^ -~]' "$1"; then
		echo 'has more than one line of ASCII characters, which no header can carry'
	else
		case $(permissions "$1") in ????------) ;; *) echo 'can be read by others: chmod 600 it' ;; esac
	fi
}

label() {
	case $supervisor in launchd) echo "so.makefile.baa-$1" ;; *) echo "baa-$1.service" ;; esac
}

# The rendered copy of a service.
installed() {
	case $supervisor in launchd) echo "$install_dir/$(label "$1").plist" ;; *) echo "$install_dir/$(label "$1")" ;; esac
}

# base SERVICE: where it listens: by the options, by its installed copy, by the node.
base() {
	case $1 in
	conductor) told=$local_api_base name=BAA_CONDUCTOR_LOCAL_API port=4317 ;;
	status-api) told=$status_api_base name=BAA_STATUS_API_LOCAL_API port=4318 ;;
	*) told=$codexd_local_api_base name=BAA_CODEXD_LOCAL_API_BASE port=4319 ;;
	esac
	[ -n "$told" ] || [ ! -f "$(installed "$1")" ] || told=$(sed -n -e "s|.*<key>$name</key><string>\(.*\)</string>.*|\1|p" \
		-e "s|^Environment=\"$name=\(.*\)\"\$|\1|p" "$(installed "$1")")
	echo "${told:-http://127.0.0.1:$port}"
}

# The places of a service's own template and of its values; see render.
template() {
	case $supervisor in launchd) echo "$root/launchd/$(label "$1").plist" ;; *) echo "$root/systemd/$(label "$1")" ;; esac
}

# What is not loopback has to be listed where it is bound.
allowed_hosts() {
	for one; do
		is_loopback "$one" || host_of "$one"
	done | sort -u | paste -s -d , -
}

# The defaults of the node, where nothing was said: what is rendered does not depend on what was rendered before.
take_defaults() {
	: "${local_api_base:=http://127.0.0.1:4317}"
	: "${codexd_local_api_base:=http://127.0.0.1:4319}"
	: "${status_api_base:=http://127.0.0.1:4318}"
}

# render SERVICE: its template with the values in place of @NAMES@, each as its line wants it: as XML, or for systemd with %
# doubled, and " escaped on lines with quotes. A line whose value is empty is left out.
render() {
	service_path=$home_dir/.local/bin:$home_dir/.npm-global/bin:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
	BIN_DIR=$bin_dir REPO_DIR=$repo_dir HOME_DIR=$home_dir USER_NAME=$([ "$scope" = agent ] || owner "$home_dir") NODE_ID=mini-main NODE_HOST=$node \
		CONDUCTOR_BASE=$local_api_base CODEXD_BASE=$codexd_local_api_base STATUS_API_BASE=$status_api_base \
		CONDUCTOR_ALLOWED_HOSTS=$(allowed_hosts "$local_api_base") \
		STATUS_API_ALLOWED_HOSTS=$(allowed_hosts "$local_api_base" "$status_api_base") \
		CODEX=$codex SERVICE_PATH=${path:+$path:}$service_path \
		CONTROL_API_BASE=$control_api_base SHARED_TOKEN=$shared_token SHARED_TOKEN_FILE=$shared_token_file \
		awk -v form="$supervisor" '
		function replaced(text, old, new, out, at) {
			while ((at = index(text, old)) > 0) {
				out = out substr(text, 1, at - 1) new
				text = substr(text, at + length(old))
			}
			return out text
		}
		function escaped(text) {
			if (form == "launchd")
				return replaced(replaced(replaced(text, "&", "&amp;"), "<", "&lt;"), ">", "&gt;")
			text = replaced(text, "%", "%%")
			return quoted ? replaced(text, "\"", "\\\"") : text
		}
		{
			out = ""
			quoted = index($0, "\"") > 0
			while (match($0, /@[A-Z_]+@/)) {
				name = substr($0, RSTART + 1, RLENGTH - 2)
				if (!(name in ENVIRON)) { print "no value of @" name "@" | "cat >&2"; exit 1 }
				if (ENVIRON[name] == "") next
				out = out substr($0, 1, RSTART - 1) escaped(ENVIRON[name])
				$0 = substr($0, RSTART + RLENGTH)
			}
			print out $0
		}' "$(template "$1")"
}

# flatten FILE: the values of a plist, one a line: `EnvironmentVariables.HOME`, a tab, the value.
flatten() {
	awk '
	function plain(text) {
		gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&quot;/, "\"", text); gsub(/&apos;/, "\047", text)
		gsub(/&amp;/, "\\&", text)
		return text
	}
	function here() { return path[depth] (items[depth] < 0 ? key : items[depth]++) }
	{ all = all $0 "\n" }
	END {
		count = split(all, parts, "<")
		for (i = 2; i <= count; i++) {
			at = index(parts[i], ">")
			tag = substr(parts[i], 1, at - 1)
			value = plain(substr(parts[i], at + 1))
			if (tag == "key") key = value
			else if (tag == "dict" || tag == "array") {
				where = depth ? here() "." : ""
				path[++depth] = where
				items[depth] = tag == "dict" ? -1 : 0
			} else if (tag == "/dict" || tag == "/array") depth--
			else if (tag == "string" || tag == "integer") print here() "\t" value
			else if (tag == "true/" || tag == "false/") print here() "\t" substr(tag, 1, length(tag) - 1)
		}
	}' "$1"
}

# A folder that goes with the script, however that ends.
make_temp() {
	temp=
	trap 'rm -rf "$temp"' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	temp=$(mktemp -d) || die 'there can be no temporary folder'
}

# What a terminal may be shown of a text that somebody else wrote.
clean() {
	LC_ALL=C tr -d '\000-\010\013-\037\177'
}

# fetch URL [CURL-OPTION...]: its body in $temp/body, 16 MiB at the most: codexd's status with 200 large sessions; sets $status, which is 000 and $fault a reason if nobody answered.
fetch() {
	url=$1
	shift
	: >"$temp/body"
	# shellcheck disable=SC3045 # of files every shell of ours has a limit, in blocks of 512 bytes
	status=$(ulimit -f 32768 && curl -q -sS --noproxy '*' --max-time "$max_time" -o "$temp/body" -w '%{http_code}' "$@" "$url" 2>"$temp/fault") ||
		status=000
	fault="no answer: $(head -n 1 "$temp/fault")"
}

# Whether a service answers its probe, at the latest after so many seconds.
await_health() {
	end=$(($(date +%s) + $2))
	while fetch "$(base "$1")/healthz" && [ "$status" != 200 ]; do
		[ "$(date +%s)" -lt "$end" ] || return 1
		sleep 1
	done
}

# is_loaded SERVICE: whether launchd knows it.
is_loaded() {
	launchctl print "$domain/$(label "$1")" >/dev/null 2>&1
}

# unload SERVICE: it ends, and stays away. launchd answers before it is gone.
unload() {
	if [ "$supervisor" = systemd ]; then
		systemctl --user disable --now "$(label "$1")"
		return
	fi
	launchctl bootout "$domain/$(label "$1")" 2>/dev/null || : # not loaded is what is wanted
	end=$(($(date +%s) + patience))
	while is_loaded "$1"; do
		[ "$(date +%s)" -lt "$end" ] || die "$1 does not end within $patience s"
		sleep 1
	done
}

# need_supervisor: that there is somebody to ask.
need_supervisor() {
	case $supervisor in launchd) tool=launchctl other=systemctl ;; *) tool=systemctl other=launchctl ;; esac
	if ! command -v "$tool" >/dev/null; then
		case $other in
		systemctl) hint='; give --systemd for user units of systemd' ;;
		*) hint='; leave --systemd out for launchd' ;;
		esac
		command -v "$other" >/dev/null || hint=
		die "$tool is missing, so nobody can be asked$hint"
	fi
	[ "$supervisor" = launchd ] || systemctl --user show-environment >/dev/null 2>&1 ||
		die "systemd's user manager cannot be asked: log in as the user itself (not by su or sudo), or run \`loginctl enable-linger USER\` and set XDG_RUNTIME_DIR=/run/user/UID"
}

# need_installed: that each service has its rendered copy, too.
need_installed() {
	need_supervisor
	for service in $services; do
		[ -f "$(installed "$service")" ] || die "$service is not installed: there is no $(installed "$service")"
	done
}

# Where a service says what it has to say.
output() {
	case $supervisor in launchd) echo "$repo_dir/logs/launchd/$1.log" ;; *) echo "\`journalctl --user -u baa-$1\`" ;; esac
}

# Waits until each service answers, and says so.
await_all() {
	for service in $services; do
		await_health "$service" "$patience" ||
			die "$service does not answer within $patience s at $(base "$service")/healthz: $fault; why is in $(output "$service")"
		printf '%s answers at %s\n' "$service" "$(base "$service")"
	done
}

passed=0
failed=0

ok() {
	passed=$((passed + 1))
	printf 'ok    %s\n' "$*" | clean
}

bad() {
	failed=$((failed + 1))
	printf 'FAIL  %s\n' "$*" | clean
}

# check WHAT GOT EXPECTED
check() {
	if [ "$2" = "$3" ]; then ok "$1: $3"; else bad "$1: ${2:-nothing}, not $3"; fi
}

summary() {
	printf '%s ok, %s failed\n' "$passed" "$failed"
	[ "$failed" -eq 0 ]
}
