#!/bin/sh
# Measures the node against others on this machine, side by side in one run.
set -eu

usage() {
	cat <<'END'
bench.sh [--out DIR] [--docs] [NAME ...]

Builds the node (release) and the servers that it is compared with (tests/bench), runs all comparisons or those that are
named, one after another, and prints what it found as tables. DIR (target/bench) gets report.json, and report.svg where
python3 can have matplotlib. Times are of this machine; the ratios are what can be compared. As root it installs wrk.

  --out DIR   where the report goes
  --docs      has docs/performance.md, .json and .svg tell what this run found; it takes all comparisons
  --help      this text, and the names
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

matplotlib=3.11.2 # the same draws the same

folder=$root/target/bench
docs=false
while [ $# -gt 0 ]; do
	case $1 in
	--out)
		[ $# -gt 1 ] || die "--out needs a folder"
		folder=$2
		shift
		;;
	--docs) docs=true ;;
	-h | --help)
		usage
		sed -n 's/^.*\<name: "\([a-z-]*\)".*$/  \1/p' "$root/tests/src/bench/mod.rs"
		exit 0
		;;
	-*)
		usage >&2
		exit 2
		;;
	*) break ;;
	esac
	shift
done
! $docs || [ $# -eq 0 ] || die "the page tells of all comparisons: --docs takes no names"

need python3 cargo
build
[ -x "$bin/bench" ] || die "there is no bench in $bin: it wants a build of the sources"
BAA_CACHE_DIR=${BAA_CACHE_DIR:-$root/.cache}
export BAA_CACHE_DIR
# Beside bench, where it looks for them.
cargo build --release --locked --manifest-path "$root/tests/bench/Cargo.toml" --target-dir "$(dirname "$bin")" ||
	die "the servers to compare with cannot be built"
"$root/scripts/install-codex.sh" >/dev/null || printf 'without the Codex CLI: a stand-in plays its part\n' >&2
if ! command -v wrk >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
	{ apt-get update -q && apt-get install -qy --no-install-recommends wrk; } >/dev/null || :
fi

mkdir -p "$folder"
"$bin/bench" --json "$folder/report.json" "$@"

# draw FIGURE: of the report, in the format of its name.
draw() {
	venv=$BAA_CACHE_DIR/matplotlib
	[ "$("$venv/bin/pip" freeze 2>/dev/null | sed -n 's/^matplotlib==//p')" = "$matplotlib" ] ||
		{ python3 -m venv "$venv" && "$venv/bin/pip" install -q "matplotlib==$matplotlib"; } || return
	"$venv/bin/python" "$root/tests/bench/plot.py" "$folder/report.json" "$1"
}

if draw "$folder/report.svg"; then
	printf '\n%s\n' "$folder/report.svg"
else
	! $docs || die "without the figure the page stays as it is"
	printf 'without matplotlib there is no figure\n' >&2
fi

if $docs; then
	cp "$folder/report.json" "$root/docs/performance.json"
	cp "$folder/report.svg" "$root/docs/performance.svg"
	"$bin/bench" --table "$root/docs/performance.json" | python3 -c '
import sys
page = sys.argv[1]
text = open(page, encoding="utf-8").read()
before, rest = text.split("<!-- figures -->\n")
_, after = rest.split("<!-- end of figures -->\n")
tables = sys.stdin.read().strip("\n")
open(page, "w", encoding="utf-8").write(f"{before}<!-- figures -->\n\n{tables}\n\n<!-- end of figures -->\n{after}")
' "$root/docs/performance.md"
fi
