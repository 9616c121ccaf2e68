#!/bin/sh
# Begins a provisioning lease or restarts its time, from the files in
# /run/pixels/lease, which are not part of checkpoints and clones. Or ends the
# lease.
# usage: lease begin MAX_SECONDS | lease end
set -eu
files=/run/pixels/lease
unit=pixels-resolver-lease.service
exec 9>/var/lib/pixels/egress/lock
flock 9
case $1 in
begin)
    systemctl stop "$unit" 2>/dev/null || :
    systemctl reset-failed "$unit" 2>/dev/null || :
    # The resolver of a lease that ends without this script serves no queries.
    systemd-run --quiet --collect --unit="$unit" --service-type=forking \
        --property=PIDFile="$files/pid" --property=RuntimeMaxSec="$2" \
        /usr/sbin/dnsmasq --conf-file="$files/resolver" --pid-file="$files/pid"
    nft -f "$files/rules"
    ;;
end)
    nft flush set inet pixels provisioning
    systemctl stop "$unit" 2>/dev/null || :
    ;;
esac
