#!/bin/sh
# Renders the services' templates into installed copies, for launchd or for systemd. Loads nothing.
set -eu

usage() {
	cat <<'END'
install-launchd.sh [--service NAME]... --shared-token-file FILE [OPTION...]
install-launchd.sh --service codexd [OPTION...]

Writes a service's installed copy, its owner's alone, with the folders it needs. Repeatable: a copy is replaced in one step,
and holds nothing of the one before. What is loaded changes by reload-launchd.sh.

END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/runtime/lib.sh
. "$root/scripts/runtime/lib.sh"
options "$@"
take_defaults

[ -z "$shared_token" ] || [ -z "$shared_token_file" ] || wrong '--shared-token and --shared-token-file exclude each other'
case " $services " in
*' conductor '*)
	[ -n "$shared_token$shared_token_file" ] ||
		wrong 'conductor needs --shared-token-file FILE; without it there is --service codexd'
	;;
esac
for service in $services; do
	[ -x "$bin_dir/$service" ] || die "there is no program $bin_dir/$service: build it, or say --bin-dir"
done

umask 077
for dir in state logs logs/launchd runs; do
	mkdir -p "$repo_dir/$dir"
	chmod 700 "$repo_dir/$dir"
	# Made by root, and used by the one as whom the services run.
	[ "$scope" = agent ] || [ "$(id -u)" -ne 0 ] || chown "$(owner "$home_dir")" "$repo_dir/$dir"
done
mkdir -p "$install_dir"
part=
trap 'rm -f "$part"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
for service in $services; do
	part=$(mktemp "$install_dir/.baa-XXXXXX")
	render "$service" >"$part"
	chmod 600 "$part"
	mv -f "$part" "$(installed "$service")"
	printf '%s: %s\n' "$service" "$(installed "$service")"
done
if [ "$supervisor" = launchd ] && ! command -v launchctl >/dev/null; then
	echo 'there is no launchctl here: these plists are for another machine (--systemd renders user units of systemd)' >&2
fi
