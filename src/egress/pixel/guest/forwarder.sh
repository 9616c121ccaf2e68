#!/bin/sh
# Writes /run/pixels/forwarder.conf: the configuration of the forwarder, with the
# line `server=#` replaced by a line for each name server of the network. With the
# argument "refresh", restarts the forwarder if it is running and the configuration
# has changed.
set -eu
conf=/run/pixels/forwarder.conf
mkdir -p /run/pixels
# Two services run this, possibly at the same time.
new=$(mktemp -p /run/pixels forwarder.XXXXXXXX)
trap 'rm -f "$new"' EXIT
servers=""
for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
    [ -r "$file" ] || continue
    servers=$(sed -n 's/^nameserver[[:space:]]*\([0-9.]*\)$/\1/p' "$file" | grep -v '^127\.' |
        sort -u | paste -s -d ' ' -) || servers=""
    [ -z "$servers" ] || break
done
awk -v servers="$servers" '
    $0 == "server=#" {
        count = split(servers, each, " ")
        for (i = 1; i <= count; i++) print "server=" each[i]
        next
    }
    { print }
' /var/lib/pixels/egress/forwarder >"$new"
if [ "${1-}" = refresh ] && cmp -s "$new" "$conf"; then
    exit 0
fi
chmod 0644 "$new"
mv "$new" "$conf"
[ "${1-}" != refresh ] || systemctl try-restart pixels-forwarder.service
