#!/bin/sh
# Applies a state to the gateway. One caller at a time.
#
# Takes the lock, which the kernel releases when this process ends, and prints
# "ready KEY=VALUE...", the pixels of the state in force, if known, after the line
# "==> pixels", the resolvers' ports after the line "==> ports", and "==> end".
# Then reads the new state from stdin: each file after
# a line "==> NAME", and "==> end" after the last file. Prints "done" at the end.
# Truncated input changes nothing, but the state in force counts as unknown then: the
# caller may have recorded a change that it did not send.
set -eu
export LC_ALL=C
umask 077
dir=/var/lib/pixels/gateway
state=$dir/state
mkdir -p "$dir" /run/pixels
exec 9>"$dir/lock"
flock 9
# Not before: the holder of the lock replaces the directory.
[ -d "$state/resolvers" ] || mkdir -p "$state/resolvers"

# Sets `active` to the active units. One request for all, because a gateway may
# have hundreds of resolvers. systemd may still be starting.
list_active() {
    tries=0
    until active=$(systemctl list-units --plain --no-legend --state=active 'pixels-*' 2>/dev/null) ||
        [ $tries -ge 600 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
}
# Sets `idle` to the units of a state that are not active, each between blanks.
# usage: find_idle RESOLVER...
find_idle() {
    idle=$(echo "$active" | awk '
        BEGIN {
            for (i = 1; i < ARGC; i++) {
                sub(/.*\//, "", ARGV[i])
                # The pattern of a directory without resolvers.
                if (ARGV[i] != "*") unit[++units] = "pixels-resolver@" ARGV[i] ".service"
            }
            ARGC = 1
            units += split("pixels-gateway.service pixels-dhcp.service" \
                " pixels-queries.socket pixels-forwarder.service", other, " ")
            for (i = 1; i in other; i++) unit[units - i + 1] = other[i]
        }
        { active[$1] }
        END {
            for (i = 1; i <= units; i++) if (!(unit[i] in active)) printf " %s ", unit[i]
        }
    ' "$@")
}

applied=
read -r applied 2>/dev/null <"$state/applied" || :
leases=
# Listing a chain would read all sets, which takes seconds if they are full.
if listing=$(nft list set inet pixels provisioning 2>/dev/null); then
    case $listing in
        *elements*) leases=$(echo "$listing" | grep -oE '([0-9]+\.){3}[0-9]+' | paste -s -d, -) ;;
    esac
else
    rm -f /run/pixels/loaded/whole
fi
# The stored state is in force only if all services that enforce it are active.
list_active
find_idle "$state/resolvers"/*
if [ ! -e /run/pixels/loaded/whole ] || [ -n "$idle" ]; then
    applied=
fi
# DHCP may not have set the gateway's own address and name servers yet.
tries=0
while :; do
    # shellcheck disable=SC2046 # one word per field
    set -- $(ip -4 -o addr show dev eth0 scope global)
    uplink=${4-} dns=
    uplink=${uplink%/*}
    for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
        if [ ! -r "$file" ] || [ -n "$dns" ]; then continue; fi
        while read -r key value _; do
            case $key:$value in
                *:127.* | *:*[!0-9.]*) ;;
                nameserver:?*) dns=$dns${dns:+,}$value ;;
            esac
        done <"$file"
    done
    [ -z "$uplink" ] || [ -z "$dns" ] || break
    # With an address but no name server, the network probably announces none:
    # wait for a shorter time.
    [ -z "$uplink" ] || tries=$((tries + 9))
    tries=$((tries + 1))
    [ $tries -lt 200 ] || break
    sleep 0.05
done
# systemd-networkd ignores the domain unless configured otherwise.
domain=
for file in /run/systemd/netif/leases/* /etc/resolv.conf; do
    if [ ! -r "$file" ] || [ -n "$domain" ]; then continue; fi
    while read -r key value _; do
        case $key in
            DOMAINNAME=*) value=${key#*=} ;;
            search | domain) ;;
            *) continue ;;
        esac
        case $value in
            *[!A-Za-z0-9.-]*) ;;
            *) domain=${domain:-$value} ;;
        esac
    done <"$file"
done
# shellcheck disable=SC2046 # one word per field
set -- $(ip -4 route show default)
host=
[ "${2-}" != via ] || host=$3
echo "ready applied=$applied host=$host uplink=$uplink dns=$dns domain=$domain leases=$leases"
if [ -n "$applied" ] && [ -e "$state/pixels" ]; then
    echo "==> pixels"
    cat "$state/pixels"
fi
echo "==> ports"
(cd "$state/resolvers" && grep -H '^port=' -- * 2>/dev/null) || :
# If this is interrupted from here on, the next caller applies all records again.
rm -f "$state/applied"
echo "==> end"

new=$dir/new
rm -rf "$new" "$dir/old"
mkdir -p "$new/resolvers"
# A caller that is suspended must not keep the lock.
# shellcheck disable=SC2016 # expressions of awk
if ! timeout 60 awk -v dir="$new" '
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
    echo "no complete state was received within 60 seconds" >&2
    exit 3
fi
if [ -e "$new/keep" ]; then
    nft -f "$new/commands"
    echo "$applied" >"$state/applied"
    echo "done"
    exit 0
fi

# The base ruleset must be loaded before any policy.
# Units that were starting may be active now.
[ -z "$idle" ] || list_active
find_idle "$new/resolvers"/*
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
fresh=' ' unused=
changes=$(diff -rq "$state/resolvers" "$new/resolvers") || :
while read -r first second third fourth _; do
    case "$first $second $third" in
        "Only in $state/resolvers:") unused="$unused pixels-resolver@$fourth" ;;
        "Only in $new/resolvers:") fresh="$fresh$fourth " ;;
        "Files "*) fresh="$fresh${second##*/} " ;;
    esac
done <<CHANGES
$changes
CHANGES
for unit in $idle; do
    id=${unit#pixels-resolver@}
    id=${id%.service}
    case "$unit$fresh" in
        pixels-resolver@*" $id "*) ;;
        pixels-resolver@*) fresh="$fresh$id " ;;
    esac
done
restart=
if [ -n "${fresh# }" ]; then
    set --
    for id in $fresh; do
        set -- "$@" "$new/resolvers/$id"
        restart="$restart pixels-resolver@$id"
    done
    cp "$@" "$state/resolvers/"
fi
# Permanent neighbor entries, so that no pixel can claim another's address.
ip -force -batch "$new/neighbours" &
neighbours=$!
sh /usr/local/lib/pixels/gateway/load.sh "$new" "${restart:+systemctl restart $restart}"
wait $neighbours
if [ -e "$state/neighbours" ] && ! cmp -s "$new/neighbours" "$state/neighbours"; then
    # Lines "neigh replace ADDRESS lladdr MAC …".
    awk -v new="$new/neighbours" '
        FILENAME == new { known[$3]; line[$0]; next }
        !($0 in line) { print $3, ($3 in known) }
    ' "$new/neighbours" "$state/neighbours" |
        while read -r address in_use; do
            # The next pixel with this address must not inherit the record.
            rm -f "/run/pixels/denied/$address"
            [ "$in_use" = 1 ] || ip neigh del "$address" dev eth1 2>/dev/null || :
        done
fi

if ! cmp -s "$new/hosts" "$dir/hosts"; then
    # dnsmasq reads the file after it has dropped root.
    install -m 0644 "$new/hosts" "$dir/hosts.new"
    mv "$dir/hosts.new" "$dir/hosts"
    systemctl kill --signal=HUP pixels-dhcp
fi

# shellcheck disable=SC2086 # one word per unit
[ -z "$unused" ] || systemctl stop $unused
# After an interruption, the next boot loads either the old or the new state.
mv -T "$state" "$dir/old"
mv -T "$new" "$state"
[ ! -s "$state/commands" ] || nft -f "$state/commands"
rm -rf "$dir/old" "$state/commands"
echo "done"
