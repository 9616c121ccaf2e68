#!/bin/sh
# Succeeds when the policy of this id is in force, once the machine is far
# enough in its boot to tell.
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
    /hook (output|input|forward) .*policy drop;/ { walls++ }
    $0 ~ "jump p_" id "$" { uses++ }
    END { exit !(walls == 3 && uses == 2) }
'
