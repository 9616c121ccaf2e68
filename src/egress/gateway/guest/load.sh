#!/bin/sh
# Brings the packet filter from what is loaded to what the directory $1 says:
# its files `base`, `chains/NAME` (the name stands for the content) and
# `elements` (sorted). What is in both is left alone. Cut off or refused, it
# starts from nothing the next time; until then what was in force stays.
# Before that, with the sets and chains there and nothing referring to those
# that are new, it runs the command in $2.
set -eu
export LC_ALL=C
want=$1
meanwhile=${2-}
have=/run/pixels/loaded
# Not in /tmp, which the boot empties while this runs.
work=$(mktemp -d -p /run/pixels)
trap 'rm -rf "$work"' EXIT

# One transaction; the kernel takes a few hundred KB at a time.
LINES_AT_ONCE=1500
put() {
    [ -s "$1" ] || return 0
    split -l "$LINES_AT_ONCE" "$1" "$work/part."
    for part in "$work"/part.*; do
        nft -f "$part"
        rm "$part"
    done
}

# The sets and chains that files of chains make.
names() {
    cat "$1"/chains/* 2>/dev/null |
        sed -n 's/^add \(chain\|set\) inet pixels \([a-z]_[0-9a-z_]*\).*/\1 \2/p' | sort -u
}

if [ ! -e "$have/whole" ]; then
    rm -rf "$have"
    mkdir -p "$have/chains"
    : >"$have/elements"
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

# Chains that nothing refers to yet change nothing.
: >"$work/chains"
for file in "$want"/chains/*; do
    [ -e "$file" ] || continue
    [ -e "$have/chains/${file##*/}" ] || cat "$file" >>"$work/chains"
done
put "$work/chains"

# After a start: what was learned before it, of the sets there still are.
names "$want" >"$work/after"
if [ ! -s "$have/elements" ] && [ -e /var/lib/pixels/gateway/learned ]; then
    sed -n 's/^set //p' "$work/after" >"$work/sets"
    grep -F -w -f "$work/sets" /var/lib/pixels/gateway/learned >"$work/learned" || :
    put "$work/learned" || :
fi

[ -z "$meanwhile" ] || sh -c "$meanwhile"

# What goes comes first: a pixel whose policy changes is refused for a moment
# rather than let through.
{
    comm -23 "$have/elements" "$want/elements" | sed 's/^/delete /'
    comm -13 "$have/elements" "$want/elements" | sed 's/^/add /'
} >"$work/change"
names "$have" >"$work/before"
# A chain may refer to a set, so chains go first.
comm -23 "$work/before" "$work/after" | sort |
    sed 's/^\(chain\|set\) \(.*\)/delete \1 inet pixels \2/' >>"$work/change"
put "$work/change"

rm -rf "$have"
mkdir -p "$have/chains"
cp "$want/base" "$want/elements" "$have/"
cp "$want"/chains/* "$have/chains/" 2>/dev/null || :
: >"$have/whole"
