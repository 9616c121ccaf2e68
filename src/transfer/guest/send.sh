#!/bin/sh
# Writes a path as a tar stream to stdout, behind a line with its size.
#
#   $1  the path    $2  whole | contents | names    $3  `size` when it is wanted
#
# With `names`, only the NUL-separated ones on stdin, below the path.
# Exit codes: 96 no such path, 97 no tar in here; tar's own otherwise.
path=$1 how=$2 size=0
LC_ALL=C
export LC_ALL
if [ ! -e "$path" ] && [ ! -L "$path" ]; then
    exit 96
fi
command -v tar >/dev/null || exit 97
if [ -L "$path" ] && [ -e "$path" ]; then
    path=$(readlink -f -- "$path")
fi
if [ "$how" != whole ] && [ ! -d "$path" ]; then
    echo "$path is no directory in the pixel" >&2
    exit 98
fi
if [ "$3" = size ]; then
    size=$(du -sb -- "$path" 2>/dev/null | cut -f 1)
fi
printf '%s\n' "${size:-0}"
# For GNU tar; others do not look at it.
TAR_OPTIONS="--format=gnu --sparse --blocking-factor=256"
export TAR_OPTIONS
case $how in
whole)
    # By this name it comes out, wherever a link led.
    name=${path##*/} from=${path%/*}
    tar -C "${from:-/}" -cf - -- "./$name"
    ;;
contents) tar -C "$path" -cf - . ;;
names) tar -C "$path" --null --no-recursion -cf - -T - ;;
esac
