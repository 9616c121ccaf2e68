#!/bin/sh
# Lists a folder: TYPE, SIZE, MODE, NAME and a link's TARGET, each ended by NUL.
# usage: list.sh FOLDER DEPTH LIMIT
# DEPTH is 0 for everything below.
folder=$1
limit=$3
case $2 in
0) set -- -mindepth 1 ;;
*) set -- -mindepth 1 -maxdepth "$2" ;;
esac
# What cannot be read is left out; the rest is still of use.
find "$folder/" "$@" -printf '%y\0%s\0%m\0%P\0%l\0' 2>/dev/null | head -z -n $((limit * 5))
