#!/bin/sh
# Succeeds if the policy ID is in force. Waits for systemd and the packet filter
# to start.
# usage: check.sh ID
set -eu
[ -e /etc/systemd/system/pixels-egress.service ] || exit 1
tries=0
until systemctl list-jobs >/dev/null 2>&1 || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
systemctl start pixels-egress.service
nft -t list table inet pixels | awk -v id="$1" '
    /hook (output|input|forward) .*policy drop;/ { hooks++ }
    $0 ~ "jump p_" id "$" { uses++ }
    END { exit !(hooks == 3 && uses == 2) }
'
