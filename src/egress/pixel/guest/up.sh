#!/bin/sh
# Puts the policy on the disk into force, in one transaction. Repeating it keeps
# what resolvers have learned. Runs before the network comes up.
set -eu
dir=/var/lib/pixels/egress
mkdir -p /run/pixels
id -u pixels-dns >/dev/null 2>&1 ||
    useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
        --user-group pixels-dns

# Who comes last reads what is on the disk then.
exec 8>/run/pixels/egress-lock
flock 8

# Chains and sets that nothing refers to any more go in the same transaction.
wanted=/run/pixels/egress-wanted
sed -n 's/^add \(chain\|set\) inet pixels \([prn]_[0-9a-f]*\).*/\1 \2/p' "$dir/ruleset" |
    sort -u >"$wanted"
{
    cat "$dir/ruleset"
    # A chain may refer to a set, so chains go first.
    nft -t list table inet pixels 2>/dev/null |
        sed -n 's/^[[:space:]]*\(chain\|set\) \([prn]_[0-9a-f]*\) {$/\1 \2/p' |
        sort | comm -13 "$wanted" - |
        sed 's/^\(chain\|set\) \(.*\)/delete \1 inet pixels \2/'
    # The connection by which this was asked for is not cut: as sshd tells it,
    # the other side first.
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

# Frames of other machines made on our interface, by whatever means, never pass
# the filter above. Kernels before 5.16 cannot tell.
if [ -e /sys/class/net/eth0/address ]; then
    nft -f - 2>/dev/null <<EOF || :
add table netdev pixels
add chain netdev pixels own { type filter hook egress device "eth0" priority 0; policy accept; }
flush chain netdev pixels own
add rule netdev pixels own ether saddr != $(cat /sys/class/net/eth0/address) drop
EOF
fi

# No group makes somebody root by another door.
if id -u pixel >/dev/null 2>&1 && [ "$(id -nG pixel)" != "$(id -gn pixel)" ]; then
    usermod --groups "" pixel
fi
