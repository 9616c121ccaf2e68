#!/bin/sh
# Runs the script of the settings (provision.script) as root in the home of pixel.
cd /home/pixel || exit 1
exec /usr/local/lib/pixels/user-script
