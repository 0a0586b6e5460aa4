#!/bin/sh
# Breaks the code on purpose, one patch at a time, and looks whether the tests see it: a rule that no test would miss is
# none.
#
#   mutants.sh [PATCH...]       all of tests/mutants by default
#
# The first lines of a patch say what it breaks, and which tests must turn red: `# caught by: cargo test -p PACKAGE FILTER`.
# They are tried on a copy of the last commit, where those tests must be green without a patch. The copy and its builds are
# in target/mutants, or in $CARGO_TARGET_DIR/mutants. Exit: 0 all caught, 1 one survived, does not apply or does not build,
# 2 wrong arguments.
set -u

BUILD_SECONDS=600 # a first build of everything, on two cores
TEST_SECONDS=300  # a change that makes a test hang is seen, too

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
[ $# -gt 0 ] || set -- "$root"/tests/mutants/*.patch
for patch; do
	[ -f "$patch" ] || { echo "mutants.sh: there is no patch $patch" >&2 && exit 2; }
done

work=${CARGO_TARGET_DIR:-$root/target}/mutants
copy=$work/tree
out=$work/out
mkdir -p "$work"
tidy() { git -C "$root" worktree remove --force "$copy" 2>/dev/null; }
tidy
git -C "$root" worktree prune
git -C "$root" worktree add --quiet --detach --force "$copy" HEAD || exit 1
trap tidy EXIT
trap 'exit 1' HUP INT TERM
export CARGO_TARGET_DIR="$work/target" CARGO_TERM_COLOR=never

# tests COMMAND: runs it in the copy; 0 green, 1 red, 2 it does not build or does not begin with `cargo test `.
tests() {
	rest=${1#cargo test }
	[ "$rest" != "$1" ] || { echo "no cargo test: $1" >"$out" && return 2; }
	# shellcheck disable=SC2086 # words
	(cd "$copy" && timeout "$BUILD_SECONDS" cargo test --locked --no-run $rest) >"$out" 2>&1 </dev/null || return 2
	# shellcheck disable=SC2086
	(cd "$copy" && timeout "$TEST_SECONDS" cargo test --locked $rest) >"$out" 2>&1 </dev/null || return 1
}

bad=0
# verdict WORD NAME: a line; with a WORD that is not `caught`, what was printed last, too.
verdict() {
	printf '%-14s %4s s  %s\n' "$1" "$(($(date +%s) - begun))" "$2"
	[ "$1" != caught ] || return 0
	bad=$((bad + 1))
	tail -n 20 "$out" | sed 's/^/    /'
}

green='
' # the commands that are known to be green without a patch
for patch; do
	begun=$(date +%s)
	name=$(basename "$patch" .patch)
	command=$(sed -n 's/^# caught by: *//p' "$patch" | head -n 1)
	case $green in
	*"
$command
"*) ;;
	*)
		if ! tests "$command"; then
			verdict 'RED BEFORE' "$name: $command"
			continue
		fi
		green="$green$command
"
		begun=$(date +%s)
		;;
	esac
	if ! git -C "$copy" apply "$(realpath "$patch")" >"$out" 2>&1; then
		verdict 'NO PATCH' "$name does not apply"
		continue
	fi
	tests "$command"
	case $? in
	0) verdict SURVIVED "$name" ;;
	1) verdict caught "$name" ;;
	*) verdict 'NO BUILD' "$name" ;;
	esac
	git -C "$copy" reset --quiet --hard
done
[ "$bad" -eq 0 ] && echo "all $# caught" && exit 0
echo "$bad of $# not caught"
exit 1
