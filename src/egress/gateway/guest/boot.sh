#!/bin/sh
# Loads the packet filter and configures the interface to the pixels. ICMP rate
# limits are off, so that every rejected packet gets an answer and no program in
# a pixel waits for a timeout. Forwarding is enabled last, after the filter is
# loaded.
set -eu
dir=/var/lib/pixels/gateway
mkdir -p /run/pixels
sysctl -q -w net.ipv4.ip_forward=0
# A loaded ruleset may be that of another version.
rm -rf /run/pixels/loaded
mkdir -p "$dir/state"
if [ ! -e "$dir/state/base" ]; then
    cp "$dir/closed" "$dir/state/base"
    : >"$dir/state/chains"
    : >"$dir/state/elements"
fi
sh /usr/local/lib/pixels/gateway/load.sh "$dir/state"
ip link set eth1 up
ip addr replace "$PIXELS_ADDRESS/$PIXELS_PREFIX" dev eth1
sysctl -q -w \
    net.ipv4.conf.all.rp_filter=1 \
    net.ipv4.conf.eth1.rp_filter=1 \
    net.ipv4.conf.all.send_redirects=0 \
    net.ipv4.conf.eth1.send_redirects=0 \
    net.ipv4.conf.all.accept_redirects=0 \
    net.ipv4.conf.eth0.proxy_arp=1 \
    net.ipv4.conf.eth1.arp_ignore=1 \
    net.ipv4.icmp_ratelimit=0 \
    net.ipv6.conf.eth1.disable_ipv6=1
[ ! -e "$dir/state/neighbours" ] || ip -force -batch "$dir/state/neighbours"
sysctl -q -w net.ipv4.ip_forward=1
