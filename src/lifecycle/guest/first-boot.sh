#!/bin/sh
# Gives a new pixel an identity of its own before its init starts: machine-id
# (DHCP and the journal go by it), hostname, SSH host keys. Runs at every boot
# and acts once per pixel; whatever fails, init is started.
# `id` tells this pixel from its source, `name` is its hostname, `init` what to
# become when that is not init. They are set by who starts this. Every line must be able to follow the one before it on
# the same line.
id=${id-}; name=${name-};
if [ "$(cat /etc/pixels/identity 2>/dev/null)" != "$id" ]; then
    mkdir -p /etc/pixels;
    if [ -e /etc/machine-id ]; then
        tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id;
        [ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id;
    fi;
    [ -L /etc/hostname ] || echo "$name" >/etc/hostname;
    if grep -q "^127[.]0[.]1[.]1[[:space:]]" /etc/hosts; then
        sed -i "s/^127[.]0[.]1[.]1[[:space:]].*/127.0.1.1 $name/" /etc/hosts;
    fi;
    if ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1; then
        rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub;
        for type in ed25519 ecdsa; do
            ssh-keygen -q -t "$type" -N "" -f "/etc/ssh/ssh_host_${type}_key" </dev/null;
        done;
    fi;
    echo "$id" >/etc/pixels/identity;
fi;
unset id name type;
exec "${init-/sbin/init}"
