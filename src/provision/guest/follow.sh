#!/bin/sh
# Streams the output of all steps until they have ended.
set -u
while read -r name hash; do
    record=/var/lib/pixels/steps/$name
    log=/var/log/pixels/$name.log
    offset=0
    has_header=""
    while :; do
        # Checked before the output is read, so that no output is missed.
        ended=""
        if grep -qsxE 'state=(done|failed)' "$record" && grep -qsx "hash=$hash" "$record"; then
            ended=yes
        elif ! systemctl --quiet is-active pixels-provision.service &&
            [ "$(systemctl is-system-running)" != starting ]; then
            ended=yes
        fi
        size=$(stat -c %s "$log" 2>/dev/null) || size=0
        if [ "$size" -gt "$offset" ]; then
            [ -n "$has_header" ] || echo "==> $name"
            has_header=yes
            tail -c "+$((offset + 1))" "$log" | head -c "$((size - offset))"
            offset=$size
            continue
        fi
        [ -z "$ended" ] || break
        sleep 0.3
    done
done </etc/pixels/steps
