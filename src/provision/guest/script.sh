#!/bin/sh
# The user's own step, as root, in the home of `pixel`.
cd /home/pixel || exit 1
exec /usr/local/lib/pixels/user-script
