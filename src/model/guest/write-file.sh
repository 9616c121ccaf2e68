#!/bin/sh
# Replaces the file PATH with stdin, which must have LENGTH bytes.
# usage: write-file.sh PATH LENGTH MODE UID:GID
set -eu
new=$(mktemp -- "${1%/*}/.pixels-XXXXXXXX")
trap 'rm -f -- "$new"' EXIT
cat >"$new"
[ "$(stat -c %s -- "$new")" = "$2" ] || {
    echo "the content was cut off" >&2
    exit 1
}
# A change of the owner clears mode bits.
chown -- "$4" "$new"
chmod -- "$3" "$new"
mv -fT -- "$new" "$1"
