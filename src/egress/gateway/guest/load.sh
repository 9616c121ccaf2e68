#!/bin/sh
# Updates the packet filter to the state in the directory $1: its files `base`,
# `chains` (parts after lines "# part NAME", sorted; the name identifies the
# content) and `elements` (sorted). Parts that are already loaded are not touched.
# After an interruption or a failure, the loaded rules remain in force, and the
# next run loads everything.
# Runs the command $2 after it has added the new sets and chains, and before any
# element refers to them.
set -eu
export LC_ALL=C
want=$1
before_elements=${2-}
have=/run/pixels/loaded
# Not in /tmp: the boot may empty it while this runs.
work=$(mktemp -d -p /run/pixels)
trap 'rm -rf "$work"' EXIT

# The kernel accepts 212992 bytes per transaction. A word of a rule takes up to
# 45 bytes, a word of an element fewer.
WORDS_AT_ONCE=4000
run_nft() {
    [ -s "$1" ] || return 0
    awk -v prefix="$work/part." -v limit="$WORDS_AT_ONCE" '
        NR == 1 || words + NF > limit {
            if (file) close(file)
            file = sprintf("%s%06d", prefix, ++parts)
            words = 0
        }
        { words += NF; print >file }
    ' "$1"
    for part in "$work"/part.*; do
        nft -f "$part"
        rm "$part"
    done
}

if [ ! -e "$have/whole" ]; then
    rm -rf "$have"
    mkdir -p "$have"
    : >"$have/elements"
    : >"$have/parts"
    : >"$have/names"
    {
        echo "add table inet pixels"
        echo "delete table inet pixels"
        echo "add table arp pixels"
        echo "delete table arp pixels"
        cat "$want/base"
    } >"$work/base"
    nft -f "$work/base"
elif ! cmp -s "$want/base" "$have/base"; then
    rm "$have/whole"
    nft -f "$want/base"
fi
rm -f "$have/whole"

# No element refers to these chains yet.
sed -n 's/^# part //p' "$want/chains" >"$work/parts"
comm -13 "$have/parts" "$work/parts" >"$work/new"
awk -v new="$work/new" '
    FILENAME == new { is_new[$1]; next }
    /^# part / { wanted = $3 in is_new; next }
    wanted
' "$work/new" "$want/chains" >"$work/chains"
run_nft "$work/chains"

# The type and name of every set and chain.
sed -n 's/^add \(chain\|set\) inet pixels \([a-z]_[0-9a-z_]*\).*/\1 \2/p' "$want/chains" |
    sort -u >"$work/after"
# After a boot: add the addresses learned before it, for the sets that exist.
if [ ! -s "$have/elements" ] && [ -e /var/lib/pixels/gateway/learned ]; then
    # The time since they were saved counts.
    awk -v now="$(date +%s)" '
        FILENAME ~ /after$/ { known[$2]; next }
        $1 in known && $3 ~ /^[0-9]+$/ && $3 > now {
            print "add element inet pixels " $1 " { " $2 " timeout 61m expires " ($3 - now) "s }"
        }
    ' "$work/after" /var/lib/pixels/gateway/learned >"$work/learned"
    run_nft "$work/learned" || :
fi

[ -z "$before_elements" ] || sh -c "$before_elements"

# A pixel whose address or policy changes loses its provisioning lease.
nft list set inet pixels provisioning | grep -oE '([0-9]+\.){3}[0-9]+' | sort -u >"$work/leases" || :
comm -3 "$have/elements" "$want/elements" | grep -oE '([0-9]+\.){3}[0-9]+' | sort -u |
    comm -12 - "$work/leases" |
    while read -r address; do
        # The lease may have ended.
        nft delete element inet pixels provisioning "{ $address }" 2>/dev/null || :
    done

# Deletions first: during a change of its policy, a pixel is denied for a moment,
# never allowed too much.
{
    comm -23 "$have/elements" "$want/elements" | sed 's/^/delete /'
    comm -13 "$have/elements" "$want/elements" | sed 's/^/add /'
} >"$work/change"
# Chains may refer to sets, so delete chains first.
comm -23 "$have/names" "$work/after" | sort |
    sed 's/^\(chain\|set\) \(.*\)/delete \1 inet pixels \2/' >>"$work/change"
run_nft "$work/change"

rm -rf "$have"
mkdir -p "$have"
cp "$want/base" "$want/elements" "$work/parts" "$have/"
cp "$work/after" "$have/names"
: >"$have/whole"
