#!/bin/sh
# Gives a new pixel its own identity before init starts: machine-id (used by DHCP
# and the journal), hostname, SSH host keys. Runs at every boot, acts once for each
# pixel, and starts init whatever fails.
# Variables: id is unique to the pixel, name is its hostname, init is the program
# to become (default /sbin/init).
# Every line must mean the same when it follows the previous one on one line.
id=${id-}; name=${name-};
if [ "$(cat /etc/pixels/identity 2>/dev/null)" != "$id" ]; then
    mkdir -p /etc/pixels;
    if [ -e /etc/machine-id ]; then
        tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id;
        [ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id;
    fi;
    [ -L /etc/hostname ] || echo "$name" >/etc/hostname;
    [ -e /etc/hosts ] || [ -L /etc/hosts ] || echo "127.0.0.1 localhost" >/etc/hosts;
    if grep -q "^127[.]0[.]1[.]1[[:space:]]" /etc/hosts; then
        sed -i "s/^127[.]0[.]1[.]1[[:space:]].*/127.0.1.1 $name/" /etc/hosts;
    elif [ ! -L /etc/hosts ]; then
        echo "127.0.1.1 $name" >>/etc/hosts;
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
