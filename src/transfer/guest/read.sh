#!/bin/sh
# Writes the file $1 to stdout.
# Exit codes: 96 no such path, 99 path is a directory.
[ -e "$1" ] || exit 96
[ ! -d "$1" ] || exit 99
exec cat -- "$1"
