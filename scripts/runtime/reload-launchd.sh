#!/bin/sh
# Ends the services, and has launchd (or systemd) start them from their installed copies as they are now.
set -eu

usage() {
	cat <<'END'
reload-launchd.sh [--service NAME]... [OPTION...]

For after install-launchd.sh: each service is booted out, bootstrapped again, and awaited until its /healthz answers.

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
	systemd)
		systemctl --user daemon-reload
		systemctl --user enable "$(label "$service")"
		systemctl --user restart "$(label "$service")"
		;;
	*)
		unload "$service"
		launchctl bootstrap "$domain" "$(installed "$service")" || die "launchd does not take $(installed "$service")"
		;;
	esac
done
await_all
