#!/bin/sh
# Starts COMMAND in a session of its own, with its output in files in DIR, and
# returns when it has started. Exit code 125: it did not start within 5 seconds.
# usage: job.sh DIR COMMAND...
set -eu
umask 077
dir=$1
mkdir -p "$dir"
# shellcheck disable=SC2016 # expanded by the inner shell
setsid /bin/sh -c '
    dir=$1
    shift
    : >"$dir/started"
    "$@" >"$dir/stdout" 2>"$dir/stderr"
    echo $? >"$dir/code.new"
    mv "$dir/code.new" "$dir/code"
' job "$@" </dev/null >/dev/null 2>&1 &
tries=0
until [ -e "$dir/started" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 500 ] || exit 125
    sleep 0.01
done
