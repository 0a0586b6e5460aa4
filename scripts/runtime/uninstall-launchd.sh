#!/bin/sh
# Ends the services and removes their installed copies. State, logs and runs stay.
set -eu

usage() {
	cat <<'END'
uninstall-launchd.sh [--service NAME]... [OPTION...]

Ends each service and removes its installed copy, so that it does not come back; one that is not installed is left out. State,
logs and runs stay where they are.

END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/runtime/lib.sh
. "$root/scripts/runtime/lib.sh"
options "$@"
need_supervisor

for service in $services; do
	if [ ! -f "$(installed "$service")" ]; then
		printf '%s: not installed\n' "$service"
		continue
	fi
	unload "$service"
	rm -f "$(installed "$service")"
	[ "$supervisor" = launchd ] || systemctl --user daemon-reload
	printf '%s: removed %s\n' "$service" "$(installed "$service")"
done
