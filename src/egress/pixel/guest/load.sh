#!/bin/sh
# Loads the policy on the disk into the packet filter, in one transaction. Runs
# before the network starts. Keeps the learned addresses when repeated.
set -eu
dir=/var/lib/pixels/egress
mkdir -p /run/pixels
id -u pixels-dns >/dev/null 2>&1 ||
    useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
        --user-group pixels-dns

# The last of several callers loads the latest files.
exec 8>/run/pixels/egress-lock
flock 8

# Unused chains and sets are deleted in the same transaction.
wanted=/run/pixels/egress-wanted
sed -n 's/^add \(chain\|set\) inet pixels \([cprn]_[0-9a-f]*\).*/\1 \2/p' "$dir/ruleset" |
    sort -u >"$wanted"
{
    cat "$dir/ruleset"
    # Chains may refer to sets, so delete chains first.
    nft -t list table inet pixels 2>/dev/null |
        sed -n 's/^[[:space:]]*\(chain\|set\) \([cprn]_[0-9a-f]*\) {$/\1 \2/p' |
        sort | comm -13 "$wanted" - |
        sed 's/^\(chain\|set\) \(.*\)/delete \1 inet pixels \2/'
    # Keep the SSH connection through which this runs. The format is that of
    # SSH_CONNECTION: client address and port, server address and port.
    case ${PIXELS_CONNECTION-} in
    "" | *[!0-9.\ ]*) ;;
    *)
        # shellcheck disable=SC2086 # four words
        set -- $PIXELS_CONNECTION
        [ $# != 4 ] || echo "add element inet pixels entered { $1 . $2 . $3 . $4 timeout 1m }"
        ;;
    esac
} >/run/pixels/egress-batch
nft -f /run/pixels/egress-batch

# Raw frames do not pass the filter above: drop those with a foreign source
# address. Needs Linux 5.16.
if [ -e /sys/class/net/eth0/address ]; then
    nft -f - 2>/dev/null <<EOF || :
add table netdev pixels
add chain netdev pixels own { type filter hook egress device "eth0" priority 0; policy accept; }
flush chain netdev pixels own
add rule netdev pixels own ether saddr != $(cat /sys/class/net/eth0/address) drop
EOF
fi

# Groups such as `docker` are equivalent to root.
if id -u pixel >/dev/null 2>&1 && [ "$(id -nG pixel)" != "$(id -gn pixel)" ]; then
    usermod --groups "" pixel
fi
