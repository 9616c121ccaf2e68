#!/bin/sh
# Checks that the image can be provisioned, and creates the user pixel with uid
# and gid 1000. It replaces the image's user ubuntu or debian.
# Exit codes 90 to 92: the image does not meet a requirement, printed to stderr.
set -eu

unsupported() {
    echo "$2" >&2
    exit "$1"
}

case $(readlink -f /sbin/init) in
*/systemd) ;;
*) unsupported 90 "the image does not boot with systemd" ;;
esac
command -v apt-get >/dev/null || unsupported 91 "the image has no apt-get"

if id -u pixel >/dev/null 2>&1; then
    [ "$(id -u pixel)" = 1000 ] || unsupported 92 "the image has a user pixel whose uid is not 1000"
    exit 0
fi

owner=$(getent passwd 1000 | cut -d: -f1) || true
case $owner in
"") ;;
ubuntu | debian)
    # 12: the user has no mail spool.
    userdel --force --remove "$owner" 2>/dev/null || [ $? -eq 12 ]
    rm -f "/etc/sudoers.d/90-cloud-init-users"
    ;;
*) unsupported 92 "uid 1000 belongs to the image's user $owner" ;;
esac
group=$(getent group 1000 | cut -d: -f1) || true
[ -z "$group" ] || groupdel "$group"
groupadd --gid 1000 pixel
useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash pixel
