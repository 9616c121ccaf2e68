#!/bin/sh
# apt-get that waits for other users of the package system and repeats what a
# bad moment of the network spoiled.
# usage: apt.sh ARGUMENT…
set -u
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
tries=0
deadline=$(($(date +%s) + 900))
while :; do
    output=$(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold "$@" 2>&1)
    code=$?
    printf '%s\n' "$output"
    [ "$code" -ne 0 ] || exit 0
    [ "$(date +%s)" -lt "$deadline" ] || exit "$code"
    case $output in
    # The image's own timers: they end.
    *"Could not get lock"* | *"Unable to acquire"*) ;;
    *)
        tries=$((tries + 1))
        [ "$tries" -lt 4 ] || exit "$code"
        ;;
    esac
    sleep 3
done
