#!/bin/sh
# Tries a package as somebody who has nothing but that: an empty home, no Rust.
set -eu

usage() {
	cat <<'END'
check-package.sh ARCHIVE

Unpacks it in an empty home, and holds it to what it promises: the sums of its files, programs that know nothing of where
they were built, one turn by quickstart.sh, one by `codexd smoke`, the whole of codexd-e2e-smoke.sh, and plists that
check-launchd.sh finds well. Wants the
`codex` of install-codex.sh on PATH or in $BAA_CACHE_DIR. Exit 1 if any of it fails; nothing is left behind.
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

case ${1:-} in
-h | --help)
	usage
	exit 0
	;;
'' | -*)
	echo "check-package.sh: it wants one ARCHIVE, not \`${1:-}\`; --help says more" >&2
	exit 2
	;;
esac
[ -f "$1" ] || die "there is no $1"
need curl node python3 tar
codex=$(command -v codex) || codex=$("$root/scripts/install-codex.sh")

temp=$(CDPATH='' cd -- "$(mktemp -d)" && pwd -P)
tidy() { rm -rf "$temp"; }
mkdir -p "$temp/bin" "$temp/home/.local/bin"
# What is on PATH: the system's own, and of the rest these few. Who needs a compiler gets none.
for tool in curl node python3; do
	printf '#!/bin/sh\nexec "%s" "$@"\n' "$(command -v "$tool")" >"$temp/bin/$tool"
done
printf '#!/bin/sh\nexec "%s" "$@"\n' "$codex" >"$temp/home/.local/bin/codex"
printf '#!/bin/sh\necho "cargo was called: $*" >&2\nexit 1\n' >"$temp/bin/cargo"
chmod +x "$temp/bin"/* "$temp/home/.local/bin/codex"

tar -xzf "$1" -C "$temp/home"
cd "$temp/home"/baa-conductor-*
sums=$(command -v sha256sum) || sums='shasum -a 256'
$sums -c SHA256SUMS >/dev/null || die "a file is not what SHA256SUMS says"
for program in bin/* libexec/*; do
	! grep -a -q -F -e "$root/" -e "${CARGO_HOME:-$HOME/.cargo}/" "$program" || die "$program tells where it was built"
done

newcomer() {
	printf '== %s\n' "$*"
	env -i HOME="$temp/home" PATH="$temp/home/.local/bin:$temp/bin:/usr/bin:/bin" "$@" || die "$* failed"
}
newcomer scripts/quickstart.sh --once --codexd-port 0 --conductor-port 0 --status-api-port 0
newcomer bin/codexd smoke --server-command codex
newcomer scripts/runtime/codexd-e2e-smoke.sh
(umask 077 && od -An -N 16 -t x1 /dev/urandom | tr -d ' \n' >"$temp/home/token")
for script in install check; do
	newcomer "scripts/runtime/$script-launchd.sh" --repo-dir "$PWD" --home-dir "$temp/home" --shared-token-file "$temp/home/token"
done
