#!/bin/sh
# Runs the script of the first boot with what the server says of this instance
# in the environment of init. A clone is told from its source by it.
value() {
    tr '\0' '\n' </proc/1/environ | sed -n "s/^pixels__$1=//p" | head -n 1
}
id=$(value id)
name=$(value name)
[ -n "$id" ] || exit 0
# There is an init already.
init=/bin/true
export id name init
before=$(cat /etc/machine-id 2>/dev/null) || :
sh "${0%/*}/first-boot"
# The journal is kept by the id it began with, and looked for by the new one.
[ "$(cat /etc/machine-id 2>/dev/null)" = "$before" ] ||
    systemctl try-restart systemd-journald.service || :
# Init has read the old one already.
[ ! -s /etc/hostname ] || cat /etc/hostname >/proc/sys/kernel/hostname
