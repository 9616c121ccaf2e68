#!/bin/sh
# Writes the configuration of the resolver: that of the policy, with the name
# servers of the network in place of `#`. With the argument "refresh", restarts
# a running resolver if the configuration has changed. With the argument "lease",
# the configuration is that of a provisioning lease.
set -eu
policy=/var/lib/pixels/egress/resolver
conf=/run/pixels/resolver.conf
if [ "${1-}" = lease ]; then
    policy=/run/pixels/lease/resolver
    conf=/run/pixels/lease/resolver.conf
fi
mkdir -p /run/pixels
servers=""
for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
    [ -r "$file" ] || continue
    servers=$(sed -n 's/^nameserver[[:space:]]*\([0-9.]*\)$/\1/p' "$file" | grep -v '^127\.' |
        sort -u | paste -s -d ' ' -) || servers=""
    [ -z "$servers" ] || break
done
awk -v servers="$servers" '
    /^server=.*#$/ {
        count = split(servers, each, " ")
        for (i = 1; i <= count; i++) print substr($0, 1, length($0) - 1) each[i]
        next
    }
    { print }
' "$policy" >"$conf.new"
if [ "${1-}" = refresh ] && cmp -s "$conf.new" "$conf"; then
    rm -f "$conf.new"
    exit 0
fi
mv "$conf.new" "$conf"
[ "${1-}" != refresh ] || systemctl try-restart pixels-resolver.service
