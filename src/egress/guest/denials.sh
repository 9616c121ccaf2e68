#!/bin/sh
# Prints the denials of the last hour: lines "name SECONDS COUNT NAME", where a
# name may have several lines, a line "sets NOW", and the set $2 of denied
# destinations as nft's JSON. In a gateway, $1 is the address of the pixel. In a
# pixel that enforces its own policy, $1 is empty.
set -eu
if [ -n "$1" ]; then
    sed 's/^/name /' "/run/pixels/denied/$1" 2>/dev/null || :
else
    # A line: SECONDS HOST dnsmasq[PID]: SERIAL ADDRESS/PORT config NAME is NXDOMAIN
    journalctl --quiet --no-pager --output=short-unix --since=-1h --unit=pixels-resolver |
        awk '
            $6 == "config" && $NF == "NXDOMAIN" && $(NF - 1) == "is" {
                start = index($0, " config ") + 8
                name = tolower(substr($0, start, length($0) - start - 11))
                gsub(/[^a-z0-9._-]/, "?", name)
                count[name]++
                last[name] = $1
            }
            END { for (name in count) print last[name], count[name], name }
        ' | sort -rn | head -n 1000 | sed 's/^/name /'
fi
echo "sets $(date +%s)"
nft -j list set inet pixels "$2" 2>/dev/null || echo '{"nftables": []}'
