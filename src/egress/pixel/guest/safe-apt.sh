#!/bin/sh
# Installs and removes packages from the configured archives. Rejects options,
# files, versions and patterns, packages with setuid-root programs, and the
# removal of packages that enforce the policy.
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

[ $# -gt 0 ] || refuse "expected a command: update, upgrade, dist-upgrade, autoremove, install, remove or purge"
verb=$1
shift
case $verb in
update | upgrade | dist-upgrade | autoremove)
    [ $# -eq 0 ] || refuse "$verb takes no arguments"
    ;;
install | remove | purge)
    [ $# -gt 0 ] || refuse "$verb needs a package name"
    ;;
*) refuse "unknown command $verb: only update, upgrade, dist-upgrade, autoremove, install, remove and purge are allowed" ;;
esac
for package in "$@"; do
    case $package in
    *[!a-z0-9.+-]* | [!a-z0-9]* | *-) refuse "invalid package name: options, files and versions are not allowed" ;;
    esac
    # apt treats an unknown name as a pattern.
    apt-cache --quiet pkgnames "$package" </dev/null | grep -Fqx -e "$package" ||
        refuse "no package $package in the archives, run: sudo safe-apt update"
    [ "$verb" != install ] || continue
    case $package in
    nftables | libnftables* | libnft* | dnsmasq-base | sudo | sudo-* | systemd | systemd-* | libc6 | passwd | dash)
        refuse "$package enforces this pixel's policy"
        ;;
    esac
done

# Runs a command through systemd, in an environment that the caller does not
# control. The pipe keeps programs from prompting on a terminal.
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

# Keeps changed configuration files, and does not prompt.
apt() {
    run apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# Whether a setuid-root program is one of those that are safe for all users.
known() {
    case $1 in
    */su | */sudo | */mount | */umount | */passwd | */chfn | */chsh | */gpasswd | */newgrp | */chage | \
        */expiry | */unix_chkpwd | */newuidmap | */newgidmap | */fusermount | */fusermount3 | \
        */ssh-keysign | */dbus-daemon-launch-helper | */polkit-agent-helper-1 | */pkexec | */at | \
        */crontab | */chrome-sandbox | */exim4 | */ping) ;;
    *) return 1 ;;
    esac
}

# Rejects downloaded packages with setuid-root or privileged setgid programs.
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
                refuse "${archive##*/} has a program that runs with root's powers: $path"
            }
        done
    done
}

# Prints the setuid-root programs, also those that package scripts created.
setuid_programs() {
    find /usr /bin /sbin /lib /opt -xdev -type f -perm -4000 -user root 2>/dev/null | sort
}

# One caller at a time: another one could replace the inspected packages.
exec 9>/run/pixels/safe-apt
flock 9
code=0
case $verb in
install | upgrade | dist-upgrade)
    apt clean
    apt --download-only "$verb" "$@" || exit $?
    inspect
    before=$(setuid_programs)
    apt --no-download "$verb" "$@" || code=$?
    for path in $(setuid_programs); do
        printf '%s\n' "$before" | grep -Fqx -e "$path" || known "$path" || chmod u-s "$path"
    done
    apt clean || :
    ;;
update) apt update || code=$? ;;
*) apt --no-download "$verb" "$@" || code=$? ;;
esac
# Package scripts may have changed the packet filter.
run /usr/local/lib/pixels/egress/load
exit "$code"
