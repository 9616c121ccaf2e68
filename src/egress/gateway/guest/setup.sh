#!/bin/sh
# Sets up this instance as a gateway, from the files that were written before.
# Can be repeated. Exit status 90: cannot install the packages in this image.
set -eu
export DEBIAN_FRONTEND=noninteractive
# Whether dnsmasq is version 2.90 or later.
if ! command -v nft >/dev/null || ! dnsmasq --test --conf-file=/dev/null --filter-rr=HTTPS 2>/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "the image has no nft or dnsmasq, and no apt-get to install them" >&2
        exit 90
    fi
    tries=0
    until ip -4 route show default | grep -q . || [ $tries -ge 150 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
    apt-get -q -o DPkg::Lock::Timeout=300 update
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends \
        nftables dnsmasq-base >&2
fi
# systemd may still be starting.
tries=0
until systemctl list-jobs >/dev/null 2>&1 || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
for unit in nftables dnsmasq; do
    systemctl disable --no-reload --now "$unit" 2>/dev/null || :
done
dir=/var/lib/pixels/gateway
# The state may be that of another version: forward nothing until policies are
# applied.
rm -rf "$dir/state"
mkdir -p "$dir/state/resolvers"
[ -e "$dir/hosts" ] || : >"$dir/hosts"
chmod 0755 /var/lib/pixels "$dir"
systemctl daemon-reload
systemctl restart systemd-journald
# systemd does not restart a socket while its service runs. A resolver that stops
# writes to its log, which starts the service.
systemctl stop 'pixels-resolver@*'
systemctl stop pixels-queries.socket pixels-queries.service
set -- pixels-gateway pixels-dhcp pixels-queries.socket pixels-forwarder pixels-resolvers \
    pixels-learned.timer
systemctl enable --no-reload --quiet "$@"
systemctl restart "$@"
