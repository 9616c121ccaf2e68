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
mkdir -p "$dir/resolvers" /run/pixels
exec 9>"$dir/lock"
flock 9

applied=$(cat "$dir/applied" 2>/dev/null || :)
# What is on record is in force only where all that enforces it is at work.
units="pixels-gateway pixels-dhcp"
for conf in "$dir"/resolvers/*; do
    [ ! -e "$conf" ] || units="$units pixels-resolver@${conf##*/}"
done
# shellcheck disable=SC2086 # one word per unit
if [ ! -e /run/pixels/loaded ] || ! nft list chain inet pixels forwarding >/dev/null 2>&1 ||
    [ "$(systemctl is-active $units | sort -u)" != active ]; then
    applied=
fi
route=$(ip -4 route show default | head -n 1)
host=$(echo "$route" | sed -n 's/.* via \([0-9.]*\).*/\1/p')
uplink=$(ip -4 -o addr show dev eth0 scope global | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
    [ -r "$file" ] || continue
    dns=$(sed -n 's/^nameserver[[:space:]]*\([0-9.]*\)$/\1/p' "$file" | grep -v '^127\.' | paste -s -d, -)
    [ -z "$dns" ] || break
done
echo "ready applied=$applied host=$host uplink=$uplink dns=${dns:-}"

new=$dir/new
rm -rf "$new"
mkdir -p "$new/resolvers"
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
rm -f "$dir/applied"

# Without the walls of its boot there is nothing to put a policy into.
for unit in pixels-gateway pixels-dhcp; do
    systemctl -q is-active "$unit" || systemctl restart "$unit"
done

# Resolvers first: no pixel is sent to one that does not answer yet.
for conf in "$new"/resolvers/*; do
    [ -e "$conf" ] || continue
    id=${conf##*/}
    cmp -s "$conf" "$dir/resolvers/$id" && systemctl -q is-active "pixels-resolver@$id" && continue
    cp "$conf" "$dir/resolvers/$id"
    systemctl restart "pixels-resolver@$id"
done

# Chains and sets that nothing refers to any more go in the same transaction.
names() { sed -n 's/^add \(chain\|set\) inet pixels \([prn]_[0-9a-z]*\).*/\1 \2/p' "$1" | sort -u; }
names "$new/ruleset" >"$new/names"
if [ -e /run/pixels/loaded ]; then
    names /run/pixels/loaded >"$new/before"
    # A chain may refer to a set, so chains go first.
    comm -13 "$new/names" "$new/before" | sort |
        sed 's/^\(chain\|set\) \(.*\)/delete \1 inet pixels \2/' >"$new/delete"
else
    : >"$new/delete"
fi
cat "$new/ruleset" "$new/delete" >"$new/batch"
nft -f "$new/batch"
cp "$new/ruleset" /run/pixels/loaded
mv "$new/ruleset" "$dir/ruleset"

# Nobody can claim a neighbour's address.
ip -force -batch "$new/neighbours"
if [ -e "$dir/neighbours" ]; then
    comm -13 "$new/neighbours" "$dir/neighbours" |
        sed -n 's/^neigh replace \([0-9.]*\) .*/\1/p' |
        while read -r address; do
            grep -q "^neigh replace $address " "$new/neighbours" ||
                ip neigh del "$address" dev eth1 2>/dev/null || :
        done
fi
mv "$new/neighbours" "$dir/neighbours"

if ! cmp -s "$new/hosts" "$dir/hosts"; then
    # Readable by dnsmasq, which has given up root by then.
    chmod 0644 "$new/hosts"
    mv "$new/hosts" "$dir/hosts"
    systemctl kill --signal=HUP pixels-dhcp
fi

for conf in "$dir"/resolvers/*; do
    [ -e "$conf" ] || continue
    id=${conf##*/}
    [ -e "$new/resolvers/$id" ] && continue
    systemctl stop "pixels-resolver@$id"
    rm -f "$conf"
done
mv "$new/applied" "$dir/applied"
rm -rf "$new"
echo "done"
