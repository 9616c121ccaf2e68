#!/bin/sh
# What was refused in the last hour to the address $1, or to everybody when that
# is empty: a line for each name a resolver denied, "name SECONDS COUNT NAME", then the refused destinations
# as nft has them.
set -eu
journalctl --quiet --no-pager --output=short-unix --since=-1h --unit='pixels-resolver*' |
    awk -v client="${1:+$1/}" '
        $(NF - 1) == "is" && $NF == "NXDOMAIN" && $(NF - 3) == "config" && substr($(NF - 4), 1, length(client)) == client {
            name = $(NF - 2)
            count[name]++
            last[name] = $1
        }
        END { for (name in count) print "name", last[name], count[name], name }
    '
echo "sets $(date +%s)"
nft -j list set inet pixels denied
