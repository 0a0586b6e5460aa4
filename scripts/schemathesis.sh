#!/bin/sh
# Holds a throw-away node to its own OpenAPI documents: no fault of ours, no status or shape that they do not tell.
set -eu

usage() {
	cat <<'END'
schemathesis.sh [SECONDS]

Starts a codexd with the fake app-server and a conductor before it, and calls each by its own /openapi.json for so many
seconds (50) with requests that fit the document and with such that do not. With BAA_BIN_DIR the programs in that folder
are run, and nothing is built. Needs schemathesis in $BAA_CACHE_DIR/schemathesis (scripts/ci.sh installs it).
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

seconds=50
case ${1:-} in
'') ;;
*[!0-9]*)
	usage
	case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
	;;
*) seconds=$1 ;;
esac

schemathesis=${BAA_CACHE_DIR:-$root/.cache}/schemathesis/bin/schemathesis
if [ ! -x "$schemathesis" ]; then
	[ "${CI:-}" != true ] || die "there is no $schemathesis"
	printf 'skipped: there is no %s\n' "$schemathesis"
	exit 0
fi
need curl python3
build
umask 077
temp=$(CDPATH='' cd -- "$(mktemp -d)" && pwd -P)
tidy() { rm -rf "$temp"; }
out=$temp/out
export CODEX_HOME="$temp/codex-home"
mkdir "$out" "$CODEX_HOME" "$temp/work"
cd "$temp/work"

start codexd "$bin/codexd" start --repo-root "$temp" --local-api-base http://127.0.0.1:0 \
	--server-command "$libexec/fake-app-server" --server-arg app-server
codexd=$url
await_child "$codexd"
BAA_SHARED_TOKEN=$(od -An -N 16 -t x1 /dev/urandom | tr -d ' \n')
export BAA_SHARED_TOKEN
start conductor "$bin/conductor" start --local-api http://127.0.0.1:0 --codexd-local-api "$codexd" \
	--state-dir "$temp/state" --logs-dir "$temp/logs" --runs-dir "$temp/runs"
conductor=$url

# A wait of minutes would be one; a child that refuses or is away is no fault of ours, while 500 and 507 always are.
cat >"$temp/schemathesis.toml" <<'END'
[parameters]
"query.waitMs" = 20
"query.wait_ms" = 20

[generation]
database = "none"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "502", "503", "504"]

# A body may be wrong and too large: both are refused.
[checks.negative_data_rejection]
expected-statuses = ["4xx", "5xx"]

# What is wrong with the body of a host operation is told in its union, under 200.
[[operations]]
include-operation-id = "host.files.read"
checks.negative_data_rejection.expected-statuses = ["2xx", "4xx"]
END

# What fits the document may be refused all the same (a folder that is not there, a session that is closed), so that is
# not looked at. Random commands, and files at random paths, are not for the machine of whoever runs this.
hold() {
	printf '== %s\n' "$1"
	shift
	"$schemathesis" --config-file "$temp/schemathesis.toml" --no-color run "$@" --max-time "$seconds" \
		--checks all --exclude-checks positive_data_acceptance --request-timeout 10 --max-failures 20 \
		--warnings off
}
token="Authorization: Bearer $BAA_SHARED_TOKEN"
red=0
hold codexd "$codexd/openapi.json" || red=1
hold conductor "$conductor/openapi.json" --header "$token" --exclude-operation-id host.exec \
	--exclude-operation-id host.files.write --exclude-operation-id tasks.create || red=1
# A step of a task may be a command: without the token it is refused.
hold 'tasks of conductor' "$conductor/openapi.json" --include-operation-id tasks.create || red=1
for daemon in "$codexd" "$conductor"; do
	curl -sf --max-time 5 "$daemon/healthz" || red=1
done
[ "$red" -eq 0 ]
