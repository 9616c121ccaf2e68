#!/bin/sh
# Runs the steps of /etc/pixels/steps in order, except those that are done. A step
# that fails ends the run.
set -eu
rm -f /run/pixels/requested

while read -r name hash; do
    [ -n "$name" ] || continue
    record=/var/lib/pixels/steps/$name
    if grep -qsx "state=done" "$record" && grep -qsx "hash=$hash" "$record"; then
        continue
    fi
    systemctl reset-failed "pixels-$name.service" 2>/dev/null || true
    systemctl start "pixels-$name.service"
done </etc/pixels/steps
