#!/bin/sh
# Waits until the pixel has booted, at most half a minute: before that it may
# take no notice of being asked to shut down.
command -v systemctl >/dev/null || exit 0
tries=0
while [ "$tries" -lt 300 ]; do
    case $(timeout 30 systemctl is-system-running --wait 2>/dev/null) in
    running | degraded | maintenance | stopping) exit 0 ;;
    esac
    tries=$((tries + 1))
    sleep 0.1
done
