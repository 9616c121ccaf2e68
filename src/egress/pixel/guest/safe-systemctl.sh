#!/bin/sh
# Starts, stops and shows services by name. Rejects options, paths and patterns,
# and services that the policy or access to the pixel depends on.
# usage: safe-systemctl start|stop|restart|status SERVICE…
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 SYSTEMD_PAGER=cat SYSTEMD_PAGERSECURE=1
cd /
umask 022

refuse() {
    echo "safe-systemctl: $1" >&2
    exit 2
}

[ $# -gt 1 ] || refuse "expected start, stop, restart or status, and service names"
verb=$1
shift
case $verb in
start | stop | restart | status) ;;
*) refuse "only start, stop, restart and status are allowed" ;;
esac
for unit in "$@"; do
    case $unit in
    *[!A-Za-z0-9:._@-]* | [!A-Za-z0-9]*) refuse "invalid service name: options and files are not allowed" ;;
    esac
    [ "$verb" != status ] || continue
    # Resolve aliases to the name of the unit.
    facts=$(systemctl show --property=Id --property=FragmentPath --property=LoadState -- "$unit" </dev/null)
    id=$(printf '%s\n' "$facts" | sed -n 's/^Id=//p')
    path=$(printf '%s\n' "$facts" | sed -n 's/^FragmentPath=//p')
    printf '%s\n' "$facts" | grep -qx 'LoadState=loaded' || refuse "service $unit not found"
    case $id in
    *.service) ;;
    *) refuse "$id is not a service" ;;
    esac
    # Resolve links: a unit linked from another directory is not trusted.
    case $(readlink -f -- "$path") in
    /usr/lib/systemd/system/* | /lib/systemd/system/* | /etc/systemd/system/*) ;;
    *) refuse "$id is not in a system unit directory" ;;
    esac
    case $id in
    pixels-* | systemd-* | nftables* | netfilter* | iptables* | ip6tables* | ufw* | firewalld* | \
        ssh* | dbus* | dnsmasq* | resolvconf* | networking* | network* | NetworkManager* | ifup* | \
        dhcp* | user@* | getty* | *getty@* | console-* | container-* | debug-shell* | emergency* | \
        rescue* | initrd* | rc-local* | polkit* | sudo*)
        refuse "cannot change $id while this pixel's policy is restricted"
        ;;
    esac
done
if [ "$verb" = status ]; then
    set -- --no-pager --full --lines=50 -- "$@"
else
    set -- --no-ask-password -- "$@"
fi
exec systemctl "$verb" "$@" </dev/null
