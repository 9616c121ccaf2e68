#!/bin/sh
# Tells how a job is and prints what it has written since: a line
# `STATE CODE LENGTH LENGTH`, then so many bytes of its output and its errors.
# Waits for news for so many tenths of a second. Exit code 3: no such job.
# usage: job-poll.sh FOLDER ID FROM FROM LIMIT TENTHS
set -u
dir=$1
id=$2
out=$3
err=$4
limit=$5
tenths=$6
[ -d "$dir" ] || exit 3

size() {
    stat -L -c %s -- "$dir/$1" 2>/dev/null || echo 0
}

look() {
    state=exited
    [ ! -e "$dir/code" ] || return 1
    state=running
    grep -qsxz "PIXELS_EXEC_ID=$id" /proc/[0-9]*/environ && return 0
    # It may have ended between the two looks.
    state=exited
    [ ! -e "$dir/code" ] || return 1
    state=lost
    [ ! -e "$dir/killed" ] || state=killed
    return 1
}

while look; do
    [ "$tenths" -gt 0 ] || break
    [ "$(size stdout)" -le "$out" ] || break
    [ "$(size stderr)" -le "$err" ] || break
    tenths=$((tenths - 1))
    sleep 0.1
done
code=-
[ "$state" != exited ] || read -r code <"$dir/code"

part() {
    length=$(($(size "$1") - $2))
    [ "$length" -gt 0 ] || length=0
    [ "$length" -le "$limit" ] || length=$limit
    echo "$length"
}
out_length=$(part stdout "$out")
err_length=$(part stderr "$err")
echo "$state $code $out_length $err_length"
tail -c "+$((out + 1))" "$dir/stdout" 2>/dev/null | head -c "$out_length"
tail -c "+$((err + 1))" "$dir/stderr" 2>/dev/null | head -c "$err_length"
exit 0
