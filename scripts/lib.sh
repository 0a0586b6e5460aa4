# What the scripts share: the built programs, and a node of their own that ends with them. Sourced, not run; wants $root.
# shellcheck shell=sh disable=SC2034,SC2154 # its variables are those of the script

out=  # where the node's programs write what they say
pids= # what runs, newest first

# A script's own node is not told by the settings of the shell that runs it. (BAA_TEST_RUN is none: by it tests find what they
# started.)
for name in $(env | sed -n 's/^\(BAA_[A-Z_]*\)=.*/\1/p'); do
	case $name in BAA_CACHE_DIR | BAA_BIN_DIR | BAA_TEST_RUN | BAA_QUICKSTART_* | BAA_SOAK_*) ;; *) unset "$name" ;; esac
done

# Nor is anything on this machine reached through a proxy.
no_proxy=${no_proxy:-${NO_PROXY:-}}
no_proxy=127.0.0.1${no_proxy:+,$no_proxy}
NO_PROXY=$no_proxy
export no_proxy NO_PROXY

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

need() {
	for tool; do
		command -v "$tool" >/dev/null 2>&1 || die "$tool is missing; needed are: $*"
	done
}

# Sets $bin and $libexec, the folders of the daemons and of their stand-ins (model-stub, fake-app-server): those of
# $BAA_BIN_DIR, else of the package that this script lies in, else a release build is made.
build() {
	bin=${BAA_BIN_DIR:-}
	[ -n "$bin" ] || [ ! -x "$root/bin/codexd" ] || bin=$root/bin
	if [ -z "$bin" ]; then
		need cargo
		(cd "$root" && cargo fetch --locked --quiet) || die "the dependencies cannot be fetched"
		target=$(cd "$root" && cargo metadata --format-version 1 --no-deps --locked | field target_directory)
		(cd "$root" && anonymous && cargo build --release --workspace --locked) || die "the build failed"
		bin=$target/release
	fi
	bin=$(CDPATH='' cd -- "$bin" && pwd) || die "there is no folder $bin"
	libexec=$bin
	[ -x "$libexec/model-stub" ] || libexec=$(dirname "$bin")/libexec
}

# Has the compiler leave out where this machine keeps sources and builds, so that the same source makes the same bytes in
# any folder. The rule that stands last wins, so the general ones come first.
anonymous() {
	cargo_home=${CARGO_HOME:-$HOME/.cargo}
	sysroot=$(rustc --print sysroot)
	flags=$(
		# shellcheck disable=SC2086 # words
		[ -z "${RUSTFLAGS:-}" ] || printf '%s\037' $RUSTFLAGS
		printf -- '--remap-path-prefix=%s\037' "$cargo_home=/cargo" "$sysroot=/rust" "$root=/src" "$target=/target"
		for sources in "$cargo_home"/registry/src/*; do
			printf -- '--remap-path-prefix=%s\037' "$sources=/crates"
		done
	)
	CARGO_ENCODED_RUSTFLAGS=${flags%?} # without the last separator
	export CARGO_ENCODED_RUSTFLAGS
}

# The version that install-codex.sh installs unless it is told another.
pinned_codex() {
	sed -n 's/^version=${1:-\(.*\)}$/\1/p' "$root/scripts/install-codex.sh"
}

# field PATH: that field of the JSON on stdin, `data.session.sessionId`; a text without its quotes.
field() {
	python3 -c '
import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    value = value[key]
print(value if isinstance(value, str) else json.dumps(value))' "$1"
}

# start NAME PROGRAM [ARG...]: runs it in the background, its output in $out/NAME.log; sets $pid, and $url once it listens.
start() {
	log=$out/$1.log
	shift
	: >"$log"
	"$@" >>"$log" 2>&1 </dev/null &
	pid=$!
	pids="$pid $pids"
	for _ in $(seq 100); do
		url=$(sed -n 's/^.*listening \(url=\)\{0,1\}\(http[^ ]*\).*$/\2/p' "$log" | head -n 1)
		[ -z "$url" ] || return 0
		kill -0 "$pid" 2>/dev/null || die "${1##*/} does not start: $(tail -n 3 "$log")"
		sleep 0.1
	done
	die "$1 does not listen within 10 s; see $log"
}

# await_child CODEXD: waits until its app-server is ready; codexd itself gives up after 10 s and tells why.
await_child() {
	for _ in $(seq 150); do
		ready=$(curl -s --max-time 5 "$1/readyz") || :
		[ "$ready" != ready ] || return 0
		sleep 0.1
	done
	die "the child of codexd is not ready: $ready"
}

# stop PID...: asks them to end and waits; what is deaf for 12 s (codexd takes 10 at most) is killed.
stop() {
	kill "$@" 2>/dev/null || :
	for _ in $(seq 120); do
		alive=
		for one; do
			! kill -0 "$one" 2>/dev/null || alive=yes
		done
		[ -n "$alive" ] || break
		sleep 0.1
	done
	[ -z "$alive" ] || kill -9 "$@" 2>/dev/null || :
	wait "$@" 2>/dev/null || :
	for one; do
		pids=$(printf ' %s ' "$pids" | sed "s/ $one / /") # its number may soon be somebody else's
	done
}

# The end of the script, however it comes, is the end of what it started, and then of its temporary things (`tidy`).
tidy() { :; }
finish() {
	code=$?
	trap '' HUP INT TERM
	# shellcheck disable=SC2086 # a list of numbers
	[ -z "$pids" ] || stop $pids
	tidy
	exit "$code"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
