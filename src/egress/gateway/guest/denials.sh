#!/bin/sh
# What was refused to the address $1 in the last hour: a line for each name its
# resolver denied it, "name SECONDS COUNT NAME", then the refused destinations
# as nft has them.
set -eu
journalctl --quiet --no-pager --output=short-unix --since=-1h --unit='pixels-resolver@*' |
    awk -v client="$1/" '
        $(NF - 1) == "is" && $NF == "NXDOMAIN" && $(NF - 3) == "config" && index($(NF - 4), client) == 1 {
            name = $(NF - 2)
            count[name]++
            last[name] = $1
        }
        END { for (name in count) print "name", last[name], count[name], name }
    '
echo "sets $(date +%s)"
nft -j list set inet pixels denied
