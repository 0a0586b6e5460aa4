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
# What root makes is used by the one as whom the services run. Whoever else may write there could lead root astray: a link, or
# a folder of somebody else, is refused and never changed.
user=$(id -un)
[ "$scope" = agent ] || user=$(owner "$home_dir")
for dir in "$repo_dir" "$repo_dir/state" "$repo_dir/logs" "$repo_dir/logs/launchd" "$repo_dir/runs"; do
	if [ "$dir" = "$repo_dir" ]; then
		mkdir -p "$dir"
	elif [ -L "$dir" ] || { [ -e "$dir" ] && [ "$(owner "$dir")" != "$user" ]; }; then
		die "$dir is a link, or not $user's: the node's folders are its own"
	elif [ ! -d "$dir" ]; then
		mkdir -m 700 "$dir"
		[ "$user" = "$(id -un)" ] || chown -h "$user" "$dir"
	elif [ "$(permissions "$dir")" != drwx------ ]; then
		[ "$user" = "$(id -un)" ] || die "$dir is open to others: chmod 700 it"
		chmod 700 "$dir"
	fi
done
mkdir -p "$install_dir"
part=
trap 'rm -f "$part"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
for service in $services; do
	[ ! -d "$(installed "$service")" ] || die "$(installed "$service") is a folder"
	part=$(mktemp "$install_dir/.baa-XXXXXX") || die "nothing can be written in $install_dir"
	render "$service" >"$part" || die "$service could not be written in $install_dir"
	chmod 600 "$part"
	mv -f "$part" "$(installed "$service")"
	printf '%s: %s\n' "$service" "$(installed "$service")"
done
if [ "$supervisor" = launchd ] && ! command -v launchctl >/dev/null; then
	echo 'there is no launchctl here: these plists are for another machine (--systemd renders user units of systemd)' >&2
fi
