#!/bin/sh
# Writes a line with a size in bytes, then a tar archive of a path, to stdout.
#
#   $1  the path
#   $2  whole: the path itself. contents: the entries of the directory. names:
#       only the NUL-separated paths on stdin, relative to the directory
#   $3  `size`: measure the size. Otherwise the size is 0
#
# Exit codes: 96 no such path, 97 no tar, 98 not a directory, or tar's exit code.
path=$1 mode=$2 size=0
LC_ALL=C
export LC_ALL
if [ ! -e "$path" ] && [ ! -L "$path" ]; then
    exit 96
fi
command -v tar >/dev/null || exit 97
if [ -L "$path" ] && [ -e "$path" ]; then
    path=$(readlink -f -- "$path")
fi
if [ "$mode" != whole ] && [ ! -d "$path" ]; then
    exit 98
fi
if [ "$3" = size ]; then
    size=$(du -sb -- "$path" 2>/dev/null | cut -f 1)
fi
printf '%s\n' "${size:-0}"
# Only GNU tar reads this variable.
TAR_OPTIONS="--format=gnu --sparse --blocking-factor=256"
export TAR_OPTIONS
case $mode in
whole)
    name=${path##*/} parent=${path%/*}
    tar -C "${parent:-/}" -cf - -- "./$name"
    ;;
contents) tar -C "$path" -cf - . ;;
names) tar -C "$path" --null --no-recursion -cf - -T - ;;
esac
