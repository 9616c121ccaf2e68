#!/bin/sh
# Applies a state to the gateway. One caller at a time.
#
# Takes the lock, which the kernel releases when this process ends, and prints
# "ready KEY=VALUE...". Then reads the new state from stdin: each file after a
# line "==> NAME", and "==> end" after the last file. Prints "done" at the end.
# Truncated input changes nothing.
set -eu
export LC_ALL=C
umask 077
dir=/var/lib/pixels/gateway
state=$dir/state
mkdir -p "$dir" /run/pixels
exec 9>"$dir/lock"
flock 9
mkdir -p "$state/resolvers"
# systemd may still be starting.
tries=0
until systemctl list-jobs >/dev/null 2>&1 || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
done

# Prints the units of a state with the resolvers in the directory $1 that are not
# active. One request for all units, because a gateway may have hundreds.
inactive() {
    {
        printf '%s\n' pixels-gateway.service pixels-dhcp.service pixels-queries.socket \
            pixels-forwarder.service
        find "$1" -type f -printf 'pixels-resolver@%f.service\n'
    } | sort >/run/pixels/units
    systemctl list-units --plain --no-legend --state=active 'pixels-*' | sed 's/ .*//' | sort |
        comm -23 /run/pixels/units - | paste -s -d ' ' -
}

applied=$(cat "$state/applied" 2>/dev/null || :)
# Listing a chain would read all sets, which takes seconds if they are full.
nft -t list set inet pixels pins >/dev/null 2>&1 || rm -f /run/pixels/loaded/whole
# The stored state is in force only if all services that enforce it are active.
if [ ! -e /run/pixels/loaded/whole ] || [ -n "$(inactive "$state/resolvers")" ]; then
    applied=
fi
# DHCP may not have set the gateway's own address and name servers yet.
tries=0
while :; do
    uplink=$(ip -4 -o addr show dev eth0 scope global | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
    for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
        [ -r "$file" ] || continue
        dns=$(sed -n 's/^nameserver[[:space:]]*\([0-9.]*\)$/\1/p' "$file" | grep -v '^127\.' | paste -s -d, -)
        [ -z "$dns" ] || break
    done
    [ -z "$uplink" ] || [ -z "${dns:-}" ] || break
    # With an address but no name server, the network probably announces none:
    # wait for a shorter time.
    [ -z "$uplink" ] || tries=$((tries + 9))
    tries=$((tries + 1))
    [ $tries -lt 200 ] || break
    sleep 0.05
done
# systemd-networkd ignores the domain unless configured otherwise.
domain=$(sed -n 's/^DOMAINNAME=\([A-Za-z0-9.-]*\)$/\1/p' /run/systemd/netif/leases/* 2>/dev/null | head -n 1)
[ -n "$domain" ] ||
    domain=$(sed -n 's/^\(search\|domain\)[[:space:]]*\([A-Za-z0-9.-]*\).*/\2/p' /etc/resolv.conf | head -n 1)
route=$(ip -4 route show default | head -n 1)
host=$(echo "$route" | sed -n 's/.* via \([0-9.]*\).*/\1/p')
leases=$(nft list set inet pixels provisioning 2>/dev/null | grep -oE '([0-9]+\.){3}[0-9]+' | paste -s -d, -)
echo "ready applied=$applied host=$host uplink=$uplink dns=${dns:-} domain=$domain leases=$leases"

new=$dir/new
rm -rf "$new"
mkdir -p "$new/resolvers"
if ! awk -v dir="$new" '
    ended { exit }
    $0 == "==> end" { ended = 1; next }
    /^==> / {
        # Not all files at once: the number of open files is limited.
        if (file) close(file)
        file = dir "/" $2
        printf "" >file
        next
    }
    { print >file }
    END { exit !ended }
'; then
    rm -rf "$new"
    exit 3
fi
if [ -e "$new/keep" ]; then
    nft -f "$new/commands"
    echo "done"
    exit 0
fi

# If this is interrupted from here on, the next caller applies its state again.
rm -f "$state/applied"

# The base ruleset must be loaded before any policy.
idle=" $(inactive "$new/resolvers") "
for unit in pixels-gateway.service pixels-dhcp.service pixels-queries.socket; do
    case $idle in
        *" $unit "*) systemctl restart "$unit" ;;
    esac
done

if ! cmp -s "$new/forwarder" "$state/forwarder" || [ "${idle#* pixels-forwarder.service }" != "$idle" ]; then
    cp "$new/forwarder" "$state/forwarder"
    systemctl restart pixels-forwarder
fi

# The order: sets, then resolvers that fill them, then the elements that send
# pixels to the resolvers.
fresh=$({
    diff -rq "$state/resolvers" "$new/resolvers" | sed -n \
        -e 's/^Files .*\/\([0-9a-f]*\) differ$/\1/p' \
        -e 's/^Only in .*\/new\/resolvers: \([0-9a-f]*\)$/\1/p'
    echo "$idle" | tr ' ' '\n' | sed -n 's/^pixels-resolver@\([0-9a-f]*\)\.service$/\1/p'
} | sort -u)
# The port of a new resolver may be that of a resolver that will be stopped or get
# another port.
: >/run/pixels/ports
for id in $fresh; do
    grep '^port=' "$new/resolvers/$id" >>/run/pixels/ports
done
blocking=$(grep -rlxF -f /run/pixels/ports "$state/resolvers" | sed 's|.*/|pixels-resolver@|')
# shellcheck disable=SC2086 # one word per unit
[ -z "$blocking" ] || systemctl stop $blocking
restart=
for id in $fresh; do
    cp "$new/resolvers/$id" "$state/resolvers/$id"
    restart="$restart pixels-resolver@$id"
done
sh /usr/local/lib/pixels/gateway/load.sh "$new" "${restart:+systemctl restart $restart}"

# Permanent neighbor entries, so that no pixel can claim another's address.
ip -force -batch "$new/neighbours"
if [ -e "$state/neighbours" ]; then
    comm -13 "$new/neighbours" "$state/neighbours" |
        sed -n 's/^neigh replace \([0-9.]*\) .*/\1/p' |
        while read -r address; do
            # The next pixel with this address must not inherit the record.
            rm -f "/run/pixels/denied/$address"
            grep -q "^neigh replace $address " "$new/neighbours" ||
                ip neigh del "$address" dev eth1 2>/dev/null || :
        done
fi

if ! cmp -s "$new/hosts" "$dir/hosts"; then
    # dnsmasq reads the file after it has dropped root.
    chmod 0644 "$new/hosts"
    cp -p "$new/hosts" "$dir/hosts.new"
    mv "$dir/hosts.new" "$dir/hosts"
    systemctl kill --signal=HUP pixels-dhcp
fi

unused=
for conf in "$state"/resolvers/*; do
    [ -e "$conf" ] || continue
    id=${conf##*/}
    [ -e "$new/resolvers/$id" ] || unused="$unused pixels-resolver@$id"
done
# shellcheck disable=SC2086 # one word per unit
[ -z "$unused" ] || systemctl stop $unused
# After an interruption, the next boot loads either the old or the new state.
rm -rf "$dir/old"
mv -T "$state" "$dir/old"
mv -T "$new" "$state"
rm -rf "$dir/old"
nft -f "$state/commands"
rm "$state/commands"
echo "done"
