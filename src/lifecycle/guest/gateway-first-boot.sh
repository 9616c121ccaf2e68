#!/bin/sh
# Runs before first-boot.sh in a new gateway. A new network namespace inherits
# both settings from the host. Until its rules are loaded, the gateway must not
# forward packets or answer ARP for its other addresses: when it is rebuilt, the
# pixels behind it are already running.
# Every line must mean the same when it follows the previous one on one line.
echo 0 >/proc/sys/net/ipv4/ip_forward;
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore;
