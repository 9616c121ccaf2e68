#!/bin/sh
# Adds up the lines of each name in the file $1, with lines "SECONDS COUNT NAME",
# and keeps the 1000 latest names of the last hour.
set -eu
awk -v since="$(($(date +%s) - 3600))" '
    $1 >= since { count[$3] += $2; if ($1 > last[$3]) last[$3] = $1 }
    END { for (name in count) print last[name], count[name], name }
' "$1" | sort -rn | head -n 1000 >"$1.new"
mv "$1.new" "$1"
