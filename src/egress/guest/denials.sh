#!/bin/sh
# Prints the denials of the last hour for the pixel with the address $1, or for
# all pixels if $1 is empty: a line "name SECONDS COUNT NAME" for each denied
# name, a line "sets NOW", and the set of denied destinations as nft's JSON.
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
