#!/bin/sh
# Prints the output of every step as it comes, until there is no more to come.
set -u
while read -r name hash; do
    record=/var/lib/pixels/steps/$name
    log=/var/log/pixels/$name.log
    offset=0
    said=""
    while :; do
        # Looked up before the output: what comes in between is not missed.
        over=""
        if grep -qsxE 'state=(done|failed)' "$record" && grep -qsx "hash=$hash" "$record"; then
            over=yes
        elif ! systemctl --quiet is-active pixels-provision.service &&
            [ "$(systemctl is-system-running)" != starting ]; then
            over=yes
        fi
        size=$(stat -c %s "$log" 2>/dev/null) || size=0
        if [ "$size" -gt "$offset" ]; then
            [ -n "$said" ] || echo "==> $name"
            said=yes
            tail -c "+$((offset + 1))" "$log" | head -c "$((size - offset))"
            offset=$size
            continue
        fi
        [ -z "$over" ] || break
        sleep 0.3
    done
done </etc/pixels/steps
