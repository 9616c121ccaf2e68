#!/bin/sh
# Packages of the archives this machine is set up for: no options, no files, no
# versions, no patterns; none whose programs have root's powers, and nothing of
# what enforces the policy is removed.
# usage: safe-apt update|upgrade|dist-upgrade|autoremove
#        safe-apt install|remove|purge PACKAGE…
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
cd /
umask 022

refuse() {
    echo "safe-apt: $1" >&2
    exit 2
}

[ $# -gt 0 ] || refuse "what to do? update, upgrade, dist-upgrade, autoremove, install, remove or purge"
verb=$1
shift
case $verb in
update | upgrade | dist-upgrade | autoremove)
    [ $# -eq 0 ] || refuse "$verb takes no arguments"
    ;;
install | remove | purge)
    [ $# -gt 0 ] || refuse "$verb which packages?"
    ;;
*) refuse "only update, upgrade, dist-upgrade, autoremove, install, remove and purge are possible" ;;
esac
for package in "$@"; do
    case $package in
    *[!a-z0-9.+-]* | [!a-z0-9]* | *-) refuse "no package is called that; options, files and versions are not possible" ;;
    esac
    # What apt does not know by this very name it would take for a pattern.
    apt-cache --quiet pkgnames "$package" </dev/null | grep -Fqx -e "$package" ||
        refuse "the archives have no package $package; safe-apt update looks again"
    [ "$verb" != install ] || continue
    case $package in
    nftables | libnftables* | libnft* | dnsmasq-base | sudo | sudo-* | systemd | systemd-* | libc6 | passwd | dash)
        refuse "$package is part of what enforces this pixel's policy"
        ;;
    esac
done

# By the service manager, in surroundings that the caller has no part in; through
# a pipe, so that nothing takes the output for a terminal to ask questions on.
run() {
    status=$(
        {
            {
                systemd-run --quiet --pipe --wait --collect --service-type=exec \
                    --property=WorkingDirectory=/ --property=UMask=0022 \
                    --setenv=DEBIAN_FRONTEND=noninteractive --setenv=APT_LISTCHANGES_FRONTEND=none \
                    --setenv=NEEDRESTART_SUSPEND=1 --setenv=PAGER=cat \
                    -- "$@" </dev/null 2>&1 || echo $? >&3
            } | cat >&4
        } 3>&1
    ) 4>&1
    return "${status:-0}"
}

# Files stay as they are where they were changed, and nobody is asked.
apt() {
    run apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# Programs that become root for whoever calls them, of those that do so for
# everybody and are made for it.
known() {
    case $1 in
    */su | */sudo | */mount | */umount | */passwd | */chfn | */chsh | */gpasswd | */newgrp | */chage | \
        */expiry | */unix_chkpwd | */newuidmap | */newgidmap | */fusermount | */fusermount3 | \
        */ssh-keysign | */dbus-daemon-launch-helper | */polkit-agent-helper-1 | */pkexec | */at | \
        */crontab | */chrome-sandbox | */exim4 | */ping) ;;
    *) return 1 ;;
    esac
}

# What the archives bring, looked at before any of it is there.
inspect() {
    for archive in /var/cache/apt/archives/*.deb; do
        [ -e "$archive" ] || continue
        listing=$(dpkg-deb --contents "$archive" </dev/null)
        powers=$(printf '%s\n' "$listing" | awk '
            $1 ~ /^[-h]..[sS]/ && $2 ~ /^root\// ||
            $1 ~ /^[-h].....[sS]/ && $2 ~ /\/(root|shadow|disk|kmem|adm|sudo)$/ { print substr($6, 2) }')
        for path in $powers; do
            [ -u "$path" ] || known "$path" || {
                apt clean || :
                refuse "${archive##*/} brings a program with root's powers, $path"
            }
        done
    done
}

# And what their own scripts made of it.
powerful() {
    find /usr /bin /sbin /lib /opt -xdev -type f -perm -4000 -user root 2>/dev/null | sort
}

# What one has looked at, another must not take away.
exec 9>/run/pixels/safe-apt
flock 9
code=0
case $verb in
install | upgrade | dist-upgrade)
    apt clean
    apt --download-only "$verb" "$@" || exit $?
    inspect
    before=$(powerful)
    apt --no-download "$verb" "$@" || code=$?
    for path in $(powerful); do
        printf '%s\n' "$before" | grep -Fqx -e "$path" || known "$path" || chmod u-s "$path"
    done
    apt clean || :
    ;;
update) apt update || code=$? ;;
*) apt --no-download "$verb" "$@" || code=$? ;;
esac
# Whatever a package may have done to the packet filter.
run /usr/local/lib/pixels/egress/up
exit "$code"
