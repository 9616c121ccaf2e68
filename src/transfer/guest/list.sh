#!/bin/sh
# Lists the entries below directory $1, as two NUL-terminated fields each: type,
# mode, size, mtime and link target; path.
# Exit codes: 96 no such path, 98 not a directory.
[ -e "$1" ] || [ -L "$1" ] || exit 96
cd -- "$1" || exit 98
LC_ALL=C
export LC_ALL
exec find . -mindepth 1 -printf '%y %m %s %T@ %l\0%P\0'
