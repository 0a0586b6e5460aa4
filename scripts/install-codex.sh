#!/bin/sh
# Installs the Codex CLI that the tests and the quickstart run, and prints the path of its `codex`.
#
#   install-codex.sh [VERSION]
#
# It lands in .cache/codex/VERSION of this repository, or in $BAA_CACHE_DIR/codex/VERSION. About 400 MB.
# Does nothing when that version is there. Exit: 0 installed, 1 failed, 2 wrong arguments, 69 npm is missing.
set -eu

version=${1:-0.169.0}
case $version in
-h | --help)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
	exit 0
	;;
*[!0-9A-Za-z.-]* | [!0-9]* | '')
	echo "usage: install-codex.sh [VERSION]" >&2
	exit 2
	;;
esac

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cache=${BAA_CACHE_DIR:-$root/.cache}/codex
case $cache in
/*) ;;
*) cache=$PWD/$cache ;;
esac
codex=node_modules/.bin/codex

if [ ! -x "$cache/$version/$codex" ]; then
	if ! command -v npm >/dev/null 2>&1; then
		echo "install-codex.sh: npm is missing; install Node.js, or put a codex $version on PATH" >&2
		exit 69
	fi
	mkdir -p "$cache"
	# Whoever looks into the final folder finds a whole installation or none.
	part=$cache/.part-$version-$$
	trap 'rm -rf "$part"' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir "$part"
	npm install --prefix "$part" --include=optional --no-audit --no-fund --loglevel=error \
		"@openai/codex@$version" >&2
	said=$("$part/$codex" --version)
	if [ "$said" != "codex-cli $version" ]; then
		echo "install-codex.sh: installed $version, but it says '$said'" >&2
		exit 1
	fi
	# Somebody else may have been faster: theirs is as good.
	[ -x "$cache/$version/$codex" ] || mv "$part" "$cache/$version"
fi

echo "$cache/$version/$codex"
