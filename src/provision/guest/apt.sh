#!/bin/sh
# apt-get that waits for other users of the package system, at most 15 minutes,
# and retries other failures, such as those of the network, 3 times. dpkg does
# not wait until each file is on disk: a pixel is disposable, and a checkpoint
# contains what is in memory too.
# usage: apt.sh ARGUMENT…
set -u
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
tries=0
deadline=$(($(date +%s) + 900))
while :; do
    output=$(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io \
        "$@" 2>&1)
    code=$?
    printf '%s\n' "$output"
    [ "$code" -ne 0 ] || exit 0
    [ "$(date +%s)" -lt "$deadline" ] || exit "$code"
    case $output in
    # Held by the image's own timers, which end by themselves.
    *"Could not get lock"* | *"Unable to acquire"*) ;;
    *)
        tries=$((tries + 1))
        [ "$tries" -lt 4 ] || exit "$code"
        ;;
    esac
    sleep 3
done
