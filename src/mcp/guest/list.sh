#!/bin/sh
# Prints TYPE, SIZE, MODE, NAME and link TARGET of each entry of DIR, each field
# terminated by NUL. DEPTH 0 means all subdirectories.
# usage: list.sh DIR DEPTH LIMIT
dir=$1
limit=$3
case $2 in
0) set -- -mindepth 1 ;;
*) set -- -mindepth 1 -maxdepth "$2" ;;
esac
# Unreadable directories are skipped.
find "$dir/" "$@" -printf '%y\0%s\0%m\0%P\0%l\0' 2>/dev/null | head -z -n $((limit * 5))
