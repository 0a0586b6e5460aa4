#!/bin/sh
# Whether the installed copies are what this checkout's templates make of these options, and can be run: a line a check.
set -eu

usage() {
	cat <<'END'
check-launchd.sh [--service NAME]... [OPTION...]

Give it the options that install-launchd.sh had. It compares each value of the installed plists with the templates', and
looks at programs, folders, permissions and the app-server child. --control-api-base and the token are compared if they
are given; the token never shows. Changes nothing and asks no daemon. Exit 1 if any check fails. The units of systemd are
checked by `systemd-analyze verify --user FILE`.

END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/runtime/lib.sh
. "$root/scripts/runtime/lib.sh"
options "$@"
[ "$supervisor" = launchd ] || wrong 'units are checked by systemd-analyze verify --user FILE'
take_defaults
make_temp

# value KEY: what the installed copy says.
value() {
	awk -F '\t' -v key="$1" '$1 == key { print $2; exit }' "$temp/installed"
}

values() {
	render "$service" >"$temp/rendered"
	flatten "$temp/rendered" >"$temp/expected"
	while IFS=$tab read -r key expected; do
		case $key in
		*.BAA_SHARED_TOKEN | *.BAA_SHARED_TOKEN_FILE) ;;
		*) check "$service $key" "$(value "$key")" "$expected" ;;
		esac
	done <"$temp/expected"
}

# private PATH PERMISSIONS
private() {
	check "permissions of $1" "$(permissions "$1" 2>/dev/null)" "$2"
}

# child: that codexd finds its app-server on the PATH that it has.
child() {
	command=$(value EnvironmentVariables.BAA_CODEXD_SERVER_COMMAND)
	found=$(PATH=$(value EnvironmentVariables.PATH) && command -v "$command") || :
	if [ -n "$found" ]; then
		ok "codexd app-server child: $command is $found"
	else
		bad "codexd app-server child: $command is not on the PATH of the service, $(value EnvironmentVariables.PATH)"
	fi
}

token() {
	token=$(value EnvironmentVariables.BAA_SHARED_TOKEN)
	file=$(value EnvironmentVariables.BAA_SHARED_TOKEN_FILE)
	if [ -n "$token" ] && [ -n "$file" ]; then
		bad 'conductor token: it is there twice, itself and as a file'
	elif [ -n "$file" ]; then
		fault=$(token_fault "$file")
		[ "${shared_token_file:-$file}" = "$file" ] || fault="is not $shared_token_file"
		if [ -z "$fault" ]; then ok "conductor token: $file holds it"; else bad "conductor token: $file $fault"; fi
	elif [ -n "$token" ] && [ "${shared_token:-$token}" = "$token" ] && [ "$token" != replace-me ]; then
		ok 'conductor token: it is in the installed copy'
	else
		bad 'conductor token: it is missing, the placeholder, or another one; see --shared-token-file'
	fi
}

for service in $services; do
	file=$(installed "$service")
	check "$service $file" "$([ ! -f "$file" ] || [ ! -r "$file" ] || echo installed)" installed
	if [ ! -f "$file" ] || [ ! -r "$file" ]; then
		continue
	fi
	private "$file" -rw-------
	if command -v plutil >/dev/null; then
		if plutil -lint -s "$file"; then ok "$service plist is well-formed"; else bad "$service plist: see plutil -lint $file"; fi
	fi
	flatten "$file" >"$temp/installed"
	values
	check "$service $bin_dir/$service" "$([ ! -x "$bin_dir/$service" ] || echo executable)" executable
	case $service in
	conductor) token ;;
	codexd) child ;;
	esac
done
for dir in state logs logs/launchd runs; do
	private "$repo_dir/$dir" drwx------
done
summary
