#!/bin/sh
# Lists what is below $1: type, mode, size, time, link target and name of each,
# two NUL-ended fields.
# Exit codes: 96 no such path, 98 it is no directory.
[ -e "$1" ] || [ -L "$1" ] || exit 96
cd -- "$1" || exit 98
LC_ALL=C
export LC_ALL
exec find . -mindepth 1 -printf '%y %m %s %T@ %l\0%P\0'
