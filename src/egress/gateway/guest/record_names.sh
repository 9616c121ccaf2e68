#!/bin/sh
# Records the names that the resolvers deny. Reads the resolvers' logs from stdin
# and appends a line "SECONDS 1 NAME" to the file of the pixel's address. A file
# contains at most about 3000 lines; the oldest names are dropped. Copies other
# messages of the resolvers to stdout.
set -eu
dir=/run/pixels/denied
mkdir -p "$dir"
# A line: Mmm DD HH:MM:SS dnsmasq[PID]: SERIAL ADDRESS/PORT config NAME is NXDOMAIN
# The pixel chooses the name, which may contain blanks.
exec awk -W interactive -v dir="$dir" '
    $5 !~ /^[0-9]+$/ { print; next }
    $7 == "config" && $NF == "NXDOMAIN" && $(NF - 1) == "is" && $6 ~ /^[0-9.]+\/[0-9]+$/ {
        start = index($0, " config ") + 8
        name = tolower(substr($0, start, length($0) - start - 11))
        gsub(/[^a-z0-9._-]/, "?", name)
        file = dir "/" substr($6, 1, index($6, "/") - 1)
        print systime(), 1, name >>file
        close(file)
        if (++lines[file] == 2000) {
            system("sh /usr/local/lib/pixels/gateway/compact_names.sh " file)
            lines[file] = 0
        }
    }
'
