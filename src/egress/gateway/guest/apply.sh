#!/bin/sh
# Puts a state of the gateway into force, one caller at a time.
#
# Says "ready KEY=VALUE…" once it has the lock, which the kernel gives back
# when this process ends, however it ends. Then takes files on standard input,
# each after a line "==> NAME" and the last followed by "==> end", and says
# "done". Input that breaks off changes nothing.
set -eu
umask 077
dir=/var/lib/pixels/gateway
state=$dir/state
mkdir -p "$state/chains" "$state/resolvers" /run/pixels
exec 9>"$dir/lock"
flock 9
# This may be its first second.
tries=0
until systemctl list-jobs >/dev/null 2>&1 || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
done

applied=$(cat "$state/applied" 2>/dev/null || :)
# What is on record is in force only where all that enforces it is at work.
units="pixels-gateway pixels-dhcp"
for conf in "$state"/resolvers/*; do
    [ ! -e "$conf" ] || units="$units pixels-resolver@${conf##*/}"
done
nft list chain inet pixels forwarding >/dev/null 2>&1 || rm -f /run/pixels/loaded/whole
# shellcheck disable=SC2086 # one word per unit
if [ ! -e /run/pixels/loaded/whole ] || [ "$(systemctl is-active $units | sort -u)" != active ]; then
    applied=
fi
# Its own address and resolvers may still be on their way.
tries=0
while :; do
    uplink=$(ip -4 -o addr show dev eth0 scope global | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
    for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
        [ -r "$file" ] || continue
        dns=$(sed -n 's/^nameserver[[:space:]]*\([0-9.]*\)$/\1/p' "$file" | grep -v '^127\.' | paste -s -d, -)
        [ -z "$dns" ] || break
    done
    [ -z "$uplink" ] || [ -z "${dns:-}" ] || break
    # One with an address and no resolver is so by its network's wish.
    [ -z "$uplink" ] || tries=$((tries + 9))
    tries=$((tries + 1))
    [ $tries -lt 200 ] || break
    sleep 0.05
done
route=$(ip -4 route show default | head -n 1)
host=$(echo "$route" | sed -n 's/.* via \([0-9.]*\).*/\1/p')
echo "ready applied=$applied host=$host uplink=$uplink dns=${dns:-}"

new=$dir/new
rm -rf "$new"
mkdir -p "$new/chains" "$new/resolvers"
if ! awk -v dir="$new" '
    ended { exit }
    $0 == "==> end" { ended = 1; next }
    /^==> / { file = dir "/" $2; printf "" >file; next }
    { print >file }
    END { exit !ended }
'; then
    rm -rf "$new"
    exit 3
fi
if [ -e "$new/keep" ]; then
    echo "done"
    exit 0
fi

# Cut off from here on, it is done again.
rm -f "$state/applied"

# Without the walls of its boot there is nothing to put a policy into.
for unit in pixels-gateway pixels-dhcp; do
    systemctl -q is-active "$unit" || systemctl restart "$unit"
done

# No pixel is sent to a resolver that does not answer yet, and no resolver
# learns anything without its sets.
fresh=""
for conf in "$new"/resolvers/*; do
    [ -e "$conf" ] || continue
    id=${conf##*/}
    cmp -s "$conf" "$state/resolvers/$id" && systemctl -q is-active "pixels-resolver@$id" && continue
    cp "$conf" "$state/resolvers/$id"
    fresh="$fresh pixels-resolver@$id"
done
sh /usr/local/lib/pixels/gateway/load.sh "$new" "${fresh:+systemctl restart $fresh}"

# Nobody can claim a neighbour's address.
ip -force -batch "$new/neighbours"
if [ -e "$state/neighbours" ]; then
    LC_ALL=C comm -13 "$new/neighbours" "$state/neighbours" |
        sed -n 's/^neigh replace \([0-9.]*\) .*/\1/p' |
        while read -r address; do
            grep -q "^neigh replace $address " "$new/neighbours" ||
                ip neigh del "$address" dev eth1 2>/dev/null || :
        done
fi

if ! cmp -s "$new/hosts" "$dir/hosts"; then
    # Readable by dnsmasq, which has given up root by then.
    chmod 0644 "$new/hosts"
    cp -p "$new/hosts" "$dir/hosts.new"
    mv "$dir/hosts.new" "$dir/hosts"
    systemctl kill --signal=HUP pixels-dhcp
fi

for conf in "$state"/resolvers/*; do
    [ -e "$conf" ] || continue
    id=${conf##*/}
    [ -e "$new/resolvers/$id" ] || systemctl stop "pixels-resolver@$id"
done
# The next boot takes up either the old state or the new one.
rm -rf "$dir/old"
mv "$state" "$dir/old"
mv "$new" "$state"
rm -rf "$dir/old"
echo "done"
