#!/bin/sh
# Starts a command that goes on by itself, with its output in files.
# usage: job.sh FOLDER COMMAND…
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
