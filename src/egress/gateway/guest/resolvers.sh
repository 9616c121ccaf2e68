#!/bin/sh
# Starts the resolver of each policy.
set -eu
for conf in /var/lib/pixels/gateway/state/resolvers/*; do
    [ ! -e "$conf" ] || systemctl start "pixels-resolver@${conf##*/}"
done
