#!/bin/sh
# A hard restart of services that are loaded; their installed copies are not read again.
set -eu

usage() {
	cat <<'END'
restart-launchd.sh [--service NAME]... [OPTION...]

Kills and starts each service, and waits until its /healthz answers. Nothing acknowledged is lost by it. A changed installed copy
takes reload-launchd.sh.

END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/runtime/lib.sh
. "$root/scripts/runtime/lib.sh"
options "$@"
need_installed
make_temp

for service in $services; do
	case $supervisor in
	systemd) systemctl --user restart "$(label "$service")" ;;
	*) launchctl kickstart -k "$domain/$(label "$service")" || die "$service is not loaded: reload-launchd.sh loads it" ;;
	esac
done
await_all
