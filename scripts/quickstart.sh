#!/bin/sh
# Builds the node, runs it, and shows one turn of Codex on its way: curl, conductor, codexd, `codex app-server`, and back.
set -eu

usage() {
	cat <<'END'
quickstart.sh [--once] [--codexd-port N] [--conductor-port N] [--status-api-port N]

Builds codexd, conductor and status-api (in an unpacked package they are there), starts them, creates a session, sends a
turn, prints the answer as it streams, and says how to go on. Ctrl-C stops everything it started. What they keep lies in
run/quickstart beside scripts/.

  --once               stop after the answer; exit 0 only if it came
  --codexd-port N      where codexd listens, 0 for any   (BAA_QUICKSTART_CODEXD_PORT, default 4319)
  --conductor-port N   where conductor listens           (BAA_QUICKSTART_CONDUCTOR_PORT, default 4317)
  --status-api-port N  where status-api listens          (BAA_QUICKSTART_STATUS_API_PORT, default 4318)
  --help               this text

The `codex` on PATH is used, or the pinned one is installed into .cache. It asks your own model if you are logged in;
else a stand-in plays the model, and everything else is real. With BAA_BIN_DIR the programs in that folder are run, and
nothing is built.
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

once=
codexd_port=${BAA_QUICKSTART_CODEXD_PORT:-4319}
conductor_port=${BAA_QUICKSTART_CONDUCTOR_PORT:-4317}
status_api_port=${BAA_QUICKSTART_STATUS_API_PORT:-4318}
while [ $# -gt 0 ]; do
	case $1 in
	--once) once=yes ;;
	--codexd-port | --conductor-port | --status-api-port)
		case ${2:-} in
		'' | *[!0-9]* | ??????*) echo "quickstart.sh: $1 needs a port, a number up to 65535" >&2 && exit 2 ;;
		esac
		case $1 in
		--codexd-port) codexd_port=$2 ;;
		--conductor-port) conductor_port=$2 ;;
		*) status_api_port=$2 ;;
		esac
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		echo "quickstart.sh: unexpected argument $1; --help says what can be said" >&2
		exit 2
		;;
	esac
	shift
done

say() {
	printf '== %s\n' "$*"
}

# free NAME PORT: that nobody listens there; before the build, which takes minutes.
free() {
	python3 -c '
import socket, sys
probe = socket.socket()
probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
probe.bind(("127.0.0.1", int(sys.argv[1])))' "$2" 2>/dev/null ||
		die "$1 cannot listen on port $2; is another one running? --$1-port N takes another port"
}

start_codexd() {
	start codexd "$bin/codexd" start --repo-root "$home" --local-api-base "http://127.0.0.1:$codexd_port" \
		--server-command "$codex"
	codexd=$url
	codexd_pid=$pid
	await_child "$codexd"
}

# Whether the user's own Codex can be asked: codexd knows from the child's `account/read`.
logged_in() {
	[ -d "${CODEX_HOME:-$HOME/.codex}" ] || return 1
	start_codexd
	curl -fsS "$codexd/v1/codexd/status" >"$out/status.json"
	[ "$(field data.snapshot.daemon.child.loginRequired <"$out/status.json")" = false ] && return 0
	stop "$codexd_pid"
	return 1
}

# Prints the text of a turn's event stream as it comes. Fails if the turn does not complete, or says nothing.
show_answer() {
	python3 -u -c '
import json, sys
text, end, other = "", {}, ""
for line in sys.stdin:
    if not line.startswith("data:"):
        other += line
        continue
    event = json.loads(line[5:])
    if event["type"] == "app-server.turn.message.delta":
        text += event["detail"]["delta"]
        print(event["detail"]["delta"], end="")
    elif event["type"] == "app-server.turn.completed":
        end = event["detail"]["turn"]
print()
if end.get("status") != "completed" or not text:
    why = (end.get("error") or {}).get("message") or other.strip()
    sys.exit("the turn ended as {}: {}".format(end.get("status"), why))'
}

need curl python3
free codexd "$codexd_port"
free conductor "$conductor_port"
free status-api "$status_api_port"
umask 077
home=$root/run/quickstart
out=$home/out
mkdir -p "$out" "$home/work"

build
if ! codex=$(command -v codex); then
	say "no codex on PATH: the pinned one of ${BAA_CACHE_DIR:-$root/.cache} is used, and npm installs it if it is not there"
	codex=$("$root/scripts/install-codex.sh")
fi
say "$("$codex" --version 2>/dev/null) at $codex"

if logged_in; then
	say "the model is your own: Codex is logged in"
else
	say "Codex is not logged in, so a stand-in plays the model; everything else is real"
	export CODEX_HOME="$home/codex-home"
	start model-stub "$libexec/model-stub" --home "$CODEX_HOME"
	start_codexd
fi
# A token of the node's own, for commands and files of this machine; kept, so that a second start has the same.
token=$home/token
[ -s "$token" ] || od -An -N 16 -t x1 /dev/urandom | tr -d ' \n' >"$token"
export BAA_SHARED_TOKEN_FILE="$token"
start conductor "$bin/conductor" start --local-api "http://127.0.0.1:$conductor_port" --codexd-local-api "$codexd" \
	--state-dir "$home/state" --logs-dir "$home/logs" --runs-dir "$home/runs"
conductor=$url
conductor_pid=$pid
unset BAA_SHARED_TOKEN_FILE
start status-api "$bin/status-api" start --local-api "http://127.0.0.1:$status_api_port" \
	--conductor-local-api "$conductor" --codexd-local-api "$codexd"
status_api=$url
say "codexd on $codexd, conductor on $conductor, everything they keep in $home"
say "how the node is: $status_api"

post() { # post PATH JSON [CURL-OPTION...]
	path=$1 body=$2
	shift 2
	curl -sS -X POST "$conductor$path" -H 'Content-Type: application/json' -d "$body" "$@"
}

session=$(python3 -c 'import json, sys; print(json.dumps({"cwd": sys.argv[1], "sandbox": "read-only", "approvalPolicy": "never"}))' "$home/work")
post /v1/codex/sessions "$session" >"$out/session.json"
session=$(field data.session.sessionId <"$out/session.json" 2>/dev/null) ||
	die "no session was made: $(cat "$out/session.json")"
input="Say hello in one sentence."
say "session $session, turn: $input"
post /v1/codex/turn "{\"sessionId\":\"$session\",\"input\":\"$input\"}" -N -H 'Accept: text/event-stream' --max-time 300 |
	show_answer || die "no answer came; see $home/logs/codexd"
say "that was curl > conductor > codexd > codex app-server, and back"
[ -z "$once" ] || exit 0

cat <<END

How the node is, in a browser: $status_api

Go on with:
  curl $conductor/v1/codex
  curl $conductor/v1/codex/sessions/$session
  curl -N -H 'Accept: text/event-stream' $conductor/v1/codex/events
  curl -N $conductor/v1/codex/turn -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\
    -d '{"sessionId":"$session","input":"And now in three words."}'
  curl $conductor/v1/exec -H "Authorization: Bearer \$(cat $token)" -H 'Content-Type: application/json' -d '{"command":"uname -a"}'
  $bin/codexd status --repo-root $home
  $bin/conductor status --local-api $conductor

Ctrl-C stops everything.
END
while kill -0 "$codexd_pid" 2>/dev/null && kill -0 "$conductor_pid" 2>/dev/null; do
	sleep 1
done
die "a daemon ended: $(tail -n 2 "$out/codexd.log" "$out/conductor.log")"
