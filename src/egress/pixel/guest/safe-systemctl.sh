#!/bin/sh
# Starts and stops services of the machine by name: no options, no paths, no
# patterns, and nothing that the policy or the way into the pixel stands on.
# usage: safe-systemctl start|stop|restart|status SERVICE…
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 SYSTEMD_PAGER=cat SYSTEMD_PAGERSECURE=1
cd /
umask 022

refuse() {
    echo "safe-systemctl: $1" >&2
    exit 2
}

[ $# -gt 1 ] || refuse "start, stop, restart or status, and the names of services"
verb=$1
shift
case $verb in
start | stop | restart | status) ;;
*) refuse "only start, stop, restart and status are possible" ;;
esac
for unit in "$@"; do
    case $unit in
    *[!A-Za-z0-9:._@-]* | [!A-Za-z0-9]*) refuse "no service is called that; options and files are not possible" ;;
    esac
    [ "$verb" != status ] || continue
    # By its own name, whatever alias was given.
    facts=$(systemctl show --property=Id --property=FragmentPath --property=LoadState -- "$unit" </dev/null)
    id=$(printf '%s\n' "$facts" | sed -n 's/^Id=//p')
    path=$(printf '%s\n' "$facts" | sed -n 's/^FragmentPath=//p')
    printf '%s\n' "$facts" | grep -qx 'LoadState=loaded' || refuse "there is no service $unit"
    case $id in
    *.service) ;;
    *) refuse "$id is not a service" ;;
    esac
    # Without links: a unit that somebody linked in from elsewhere is theirs.
    case $(readlink -f -- "$path") in
    /usr/lib/systemd/system/* | /lib/systemd/system/* | /etc/systemd/system/*) ;;
    *) refuse "$id does not come from this machine's own services" ;;
    esac
    case $id in
    pixels-* | systemd-* | nftables* | netfilter* | iptables* | ip6tables* | ufw* | firewalld* | \
        ssh* | dbus* | dnsmasq* | resolvconf* | networking* | network* | NetworkManager* | ifup* | \
        dhcp* | user@* | getty* | *getty@* | console-* | container-* | debug-shell* | emergency* | \
        rescue* | initrd* | rc-local* | polkit* | sudo*)
        refuse "$id is not for you to change while this pixel's policy is restricted"
        ;;
    esac
done
if [ "$verb" = status ]; then
    set -- --no-pager --full --lines=50 -- "$@"
else
    set -- --no-ask-password -- "$@"
fi
exec systemctl "$verb" "$@" </dev/null
