#!/bin/sh
# Removes the NUL-separated names on stdin, below $1.
cd -- "$1" || exit 1
exec xargs -0 -r rm -rf --
