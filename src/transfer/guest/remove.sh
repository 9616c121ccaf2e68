#!/bin/sh
# Deletes the paths on stdin, NUL-separated and relative to directory $1.
cd -- "$1" || exit 1
exec xargs -0 -r rm -rf --
