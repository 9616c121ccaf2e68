#!/bin/sh
# Waits until the boot has reached a stage. Without systemd, returns at once.
# usage: wait-for-boot.sh sysinit|complete
# sysinit: the boot no longer empties /tmp. Waits at most 10 s.
# complete: the boot is over; before that a pixel may ignore a shutdown request.
# Waits at most 30 s if systemd does not answer.
command -v systemctl >/dev/null || exit 0
tries=0
case $1 in
sysinit)
    until systemctl is-active --quiet sysinit.target 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || exit 0
        sleep 0.05
    done
    ;;
complete)
    while [ "$tries" -lt 300 ]; do
        case $(timeout 30 systemctl is-system-running --wait 2>/dev/null) in
        running | degraded | maintenance | stopping) exit 0 ;;
        esac
        tries=$((tries + 1))
        sleep 0.1
    done
    ;;
esac
