#!/bin/sh
# Measures the node against others on this machine, side by side in one run.
set -eu

usage() {
	cat <<'END'
bench.sh [--out DIR] [NAME ...]

Builds the node (release) and the servers that it is compared with (tests/bench), runs all comparisons or those that are
named, one after another, and prints what it found as tables. DIR (target/bench) gets report.json, and report.svg where
python3 can have matplotlib. Times are of this machine; the ratios are what can be compared.

  --out DIR   where the report goes
  --help      this text, and the names
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"
