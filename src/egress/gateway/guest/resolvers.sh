#!/bin/sh
# Starts the resolver of each policy.
set -eu
set --
for conf in /var/lib/pixels/gateway/state/resolvers/*; do
    [ ! -e "$conf" ] || set -- "$@" "pixels-resolver@${conf##*/}"
done
[ $# -eq 0 ] || systemctl start "$@"
