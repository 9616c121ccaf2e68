#!/bin/sh
# Starts one resolver for each policy there is.
set -eu
for conf in /var/lib/pixels/gateway/state/resolvers/*; do
    [ ! -e "$conf" ] || systemctl start "pixels-resolver@${conf##*/}"
done
