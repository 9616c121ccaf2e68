#!/bin/sh
# Saves the learned addresses of all names for the next boot, as lines "SET
# ADDRESS EXPIRY", with the time of expiry in seconds since 1970: programs in
# pixels use cached DNS answers across a restart of the gateway.
#
# Also gives addresses that expire within 50 minutes the timeout with which the
# next DNS answer renews them. See RENEWABLE_TIMEOUT in nftables.rs.
set -eu
dir=/var/lib/pixels/gateway
: >/run/pixels/renewable
# One interactive nft lists many sets. Listing all sets at once would include the
# denied destinations, of which a pixel can cause many. Without HOME, nft would
# write its history to the current directory.
nft -t list sets table inet pixels |
    sed -n 's/^[[:space:]]*set \(n_[0-9a-f]*\) {$/list set inet pixels \1/p' |
    HOME=/dev/null nft -i | tr ',' '\n' | awk -v now="$(date +%s)" -v renewable=/run/pixels/renewable '
    function seconds(text,   total, part) {
        while (match(text, /^[0-9]+(ms|[dhms])/)) {
            part = substr(text, 1, RLENGTH)
            text = substr(text, RLENGTH + 1)
            if (part ~ /ms$/) continue
            total += part * (part ~ /d/ ? 86400 : part ~ /h/ ? 3600 : part ~ /m/ ? 60 : 1)
        }
        return total
    }
    $1 == "set" { set = $2 }
    match($0, /[0-9.]+ (timeout [0-9dhms]+ )?expires [0-9dhms]+/) {
        count = split(substr($0, RSTART, RLENGTH), field, " ")
        left = seconds(field[count])
        print set, field[1], now + left
        if (count == 3 && left > 0 && left < 3000)
            print "add element inet pixels " set " { " field[1] " timeout 61m expires " left "s }" >renewable
    }
' >"$dir/learned.new"
mv "$dir/learned.new" "$dir/learned"
[ -s /run/pixels/renewable ] || exit 0
# The kernel accepts about 2000 elements per transaction.
rm -f /run/pixels/renewable.*
split -l 1000 /run/pixels/renewable /run/pixels/renewable.
for part in /run/pixels/renewable.*; do
    [ -e "$part" ] || continue
    # Fails if a policy change has just removed a set: the next run repeats it.
    nft -f "$part" 2>/dev/null || :
    rm "$part"
done
