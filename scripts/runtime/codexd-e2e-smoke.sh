#!/bin/sh
# Follows one session through a throw-away codexd and conductor, over HTTP, the command line and the disk: a line a check.
set -eu

usage() {
	cat <<'END'
codexd-e2e-smoke.sh [--real]

Builds the programs, starts a codexd and a conductor on free ports in a temporary folder, and checks what callers rely on.
Exit 1 if any check fails; nothing is left behind. With BAA_BIN_DIR the programs in that folder are run, and nothing is
built.

  --real   the Codex CLI with a stand-in for its model, instead of the fake app-server: the pinned one of .cache, else the
           `codex` on PATH, else npm installs the pinned one into .cache (400 MB)
  --help   this text
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

peer=fake
case ${1:-} in
'') ;;
--real) peer=real ;;
-h | --help)
	usage
	exit 0
	;;
*)
	echo "codexd-e2e-smoke.sh: unexpected argument $1; --help says what can be said" >&2
	exit 2
	;;
esac

need curl python3
build
if [ "$peer" = real ]; then
	codex=${BAA_CACHE_DIR:-$root/.cache}/codex/$(pinned_codex)/node_modules/.bin/codex
	[ -x "$codex" ] || codex=$(command -v codex) || codex=$("$root/scripts/install-codex.sh")
fi
umask 077
temp=$(CDPATH='' cd -- "$(mktemp -d)" && pwd -P)
tidy() { rm -rf "$temp"; }
out=$temp/out
export CODEX_HOME="$temp/codex-home"
mkdir "$out" "$CODEX_HOME" "$temp/work"

if [ "$peer" = real ]; then
	start model-stub "$libexec/model-stub" --home "$CODEX_HOME"
	set -- --server-command "$codex" --server-arg app-server --server-arg --strict-config
else
	set -- --server-command "$libexec/fake-app-server" --server-arg app-server --server-arg --banner
fi
start codexd "$bin/codexd" start --repo-root "$temp" --local-api-base http://127.0.0.1:0 "$@"
codexd=$url
codexd_pid=$pid
await_child "$codexd"
start conductor "$bin/conductor" start --local-api http://127.0.0.1:0 --codexd-local-api "$codexd" \
	--state-dir "$temp/state" --logs-dir "$temp/logs" --runs-dir "$temp/runs"
conductor=$url

python3 - "$peer" "$temp" "$bin/codexd" "$codexd_pid" "$codexd" "$conductor" <<'EOF_CHECKS'
import json, os, signal, subprocess, sys, time, urllib.error, urllib.request

peer, temp, program, codexd_pid, codexd, conductor = sys.argv[1:]
passed = failed = 0


def check(name, what, expected=True, within=0):
    """One line: whether `what()` is `expected`, at the latest after so many seconds."""
    global passed, failed
    end = time.monotonic() + within
    while True:
        try:
            got = what()
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
        if got == expected or time.monotonic() >= end:
            break
        time.sleep(0.02)
    fine = got == expected
    passed, failed = passed + fine, failed + (not fine)
    print(f"ok    {name}" if fine else f"FAIL  {name}: {got!r}, not {expected!r}", flush=True)


def call(url, body=None):
    """Status and text of a GET, or of a POST if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def data(url, body=None, status=200):
    """The `data` of an envelope of that status; anything else fails the check."""
    code, text = call(url, body)
    assert code == status and json.loads(text)["ok"] is True, f"HTTP {code} {text}"
    return json.loads(text)["data"]


def cli_status():
    command = [program, "status", "--json", "--repo-root", temp]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def text(path):
    with open(os.path.join(temp, path), errors="replace") as file:
        return file.read()


def document(name):
    return json.loads(text(f"state/codexd/{name}"))


def last_turn(session):
    return session["sessionId"], session["lastTurnId"], session["lastTurnStatus"]


check("codexd /healthz", lambda: call(f"{codexd}/healthz"), (200, "ok\n"))
check("codexd /v1/codexd/status: resolved base",
      lambda: data(f"{codexd}/v1/codexd/status")["service"]["resolvedBaseUrl"], codexd)
check("codexd /v1/codexd/status: the child runs",
      lambda: data(f"{codexd}/v1/codexd/status")["snapshot"]["daemon"]["child"]["status"], "running")
check("codexd status: started", lambda: cli_status()["daemon"]["started"])
check("codexd status: the child runs", lambda: cli_status()["daemon"]["child"]["status"], "running")
check("codexd status, for people: exit 0",
      lambda: subprocess.run([program, "status", "--repo-root", temp], capture_output=True).returncode, 0)
check("conductor /healthz", lambda: call(f"{conductor}/healthz"), (200, "ok\n"))

before = lambda: data(f"{conductor}/v1/codex")
check("GET /v1/codex: backend", lambda: before()["backend"], "independent_codexd")
check("GET /v1/codex: target", lambda: before()["proxy"]["target_base_url"], codexd)
check("GET /v1/codex: no sessions", lambda: before()["sessions"]["count"], 0)
check("GET /v1/codex: no runs route", lambda: "/v1/codex/runs" in json.dumps(before()["routes"]), False)

session = {}
def create():
    body = {"cwd": f"{temp}/work", "model": "gpt-5.4", "purpose": "duplex"}
    session.update(data(f"{conductor}/v1/codex/sessions", body, 201)["session"])
    return True
check("session create: 201", create)
check("session create: sessionId", lambda: session["sessionId"].startswith("session-"))
check("session create: purpose", lambda: session["purpose"], "duplex")
check("session create: status", lambda: session["status"], "active")
check("session create: cwd", lambda: session["cwd"], f"{temp}/work")
sessions = lambda: data(f"{conductor}/v1/codex/sessions")["sessions"]
check("session list: that one", lambda: [one["sessionId"] for one in sessions()], [session.get("sessionId")])
url = f"{conductor}/v1/codex/sessions/{session.get('sessionId')}"
check("session read: no turn yet", lambda: last_turn(data(url)["session"]), (session.get("sessionId"), None, None))

turn = {}
def create_turn():
    body = {"sessionId": session["sessionId"], "input": "Summarize pending work."}
    turn.update(data(f"{conductor}/v1/codex/turn", body, 202))
    return turn["accepted"]
check("turn create: 202, accepted", create_turn)
ended = (session.get("sessionId"), turn.get("turnId"), "completed")
events = lambda: {event["type"] for event in data(url)["recentEvents"]}
check("turn create: turnId", lambda: bool(turn["turnId"]))
check("session read: lastTurn*", lambda: last_turn(data(url)["session"]), ended, within=30)
check("session read: turn.accepted", lambda: "turn.accepted" in events())
check("session read: app-server.turn.completed", lambda: "app-server.turn.completed" in events())

after = lambda: data(f"{conductor}/v1/codex")
check("GET /v1/codex: one session", lambda: after()["sessions"]["count"], 1)
check("GET /v1/codex: it is active", lambda: after()["sessions"]["active_count"], 1)
check("GET /v1/codex: recent events", lambda: after()["recent_events"]["count"] >= 1)

check("codexd status --json: the session", lambda: [last_turn(one) for one in cli_status()["sessionRegistry"]["sessions"]], [ended])
check("codexd status --json: no runs", lambda: cli_status()["runRegistry"]["runs"], [])
check("codexd status --json: no envelope", lambda: {"ok", "service"} & set(cli_status()), set())

on_disk = lambda name, what, expected=True: check(name, what, expected, within=1)
child = lambda: data(f"{codexd}/v1/codexd/status")["snapshot"]["daemon"]["child"]
types = lambda: {event["type"] for event in document("recent-events.json")["events"]}
log = lambda: [json.loads(line) for line in text("logs/codexd/events.jsonl").splitlines()]
on_disk("identity.json: node", lambda: document("identity.json")["nodeId"], "mini-main")
on_disk("identity.json: repo root", lambda: document("identity.json")["repoRoot"], temp)
on_disk("daemon-state.json: started", lambda: document("daemon-state.json")["started"])
on_disk("daemon-state.json: the child runs", lambda: document("daemon-state.json")["child"]["status"], "running")
on_disk("daemon-state.json: its pid", lambda: document("daemon-state.json")["child"]["pid"] == child()["pid"] > 0)
on_disk("session-registry.json", lambda: [last_turn(one) for one in document("session-registry.json")["sessions"]], [ended])
on_disk("run-registry.json", lambda: document("run-registry.json"), {"runs": []})
for kind in "session.created", "turn.accepted", "app-server.turn.completed":
    on_disk(f"recent-events.json: {kind}", lambda: kind in types())
on_disk("events.jsonl: app-server.turn.completed", lambda: "app-server.turn.completed" in {event["type"] for event in log()})
on_disk("events.jsonl: seq from 1 without a gap", lambda: [event["seq"] for event in log()] == list(range(1, len(log()) + 1)))
if peer == "fake":
    on_disk("stdout.log: what the child says beside the protocol", lambda: "fake app-server ready" in text("logs/codexd/stdout.log"))
    on_disk("stderr.log: what the child complains of", lambda: "fake app-server says hello" in text("logs/codexd/stderr.log"))
else:
    on_disk("stdout.log: is there", lambda: isinstance(text("logs/codexd/stdout.log"), str))
    on_disk("stderr.log: what the child complains of", lambda: text("logs/codexd/stderr.log") != "")

pid = child()["pid"]
def lives():
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
os.kill(int(codexd_pid), signal.SIGTERM)
check("codexd ends on TERM, and its child with it", lives, False, within=12)

print(f"{passed} ok, {failed} failed, with the {peer} app-server")
sys.exit(failed > 0)
EOF_CHECKS
