#!/bin/sh
# Prints the state of a job and its output from the given offsets on: the line
# `STATE CODE STDOUT_LENGTH STDERR_LENGTH`, then that many bytes of each stream.
# Waits up to TENTHS tenths of a second for new output or the end of the job.
# Exit code 3: no such job.
# usage: job-poll.sh DIR ID STDOUT_OFFSET STDERR_OFFSET MAX_LENGTH TENTHS
set -u
dir=$1
id=$2
out=$3
err=$4
limit=$5
tenths=$6
[ -d "$dir" ] || exit 3

size() {
    [ -r "$dir/$1" ] && stat -L -c %s -- "$dir/$1" 2>/dev/null || echo 0
}

# Sets state; succeeds while the job is running.
update_state() {
    state=exited
    [ ! -e "$dir/code" ] || return 1
    state=running
    grep -qsxz "PIXELS_EXEC_ID=$id" /proc/[0-9]*/environ && return 0
    # The job may have written its code after the first check.
    state=exited
    [ ! -e "$dir/code" ] || return 1
    state=lost
    [ ! -e "$dir/killed" ] || state=killed
    return 1
}

while update_state; do
    [ "$tenths" -gt 0 ] || break
    [ "$(size stdout)" -le "$out" ] || break
    [ "$(size stderr)" -le "$err" ] || break
    tenths=$((tenths - 1))
    sleep 0.1
done
# usage: read_file FILE COMMAND...: runs a command that reads FILE. The user can
# replace it with a pipe that no process writes to.
read_file() {
    file=$dir/$1
    shift
    [ ! -f "$file" ] || timeout 10 "$@" "$file" 2>/dev/null
}

code=
[ "$state" != exited ] || code=$(read_file code head -n 1 | tr -cd 0-9)

# usage: available STREAM OFFSET
available() {
    length=$(($(size "$1") - $2))
    [ "$length" -gt 0 ] || length=0
    [ "$length" -le "$limit" ] || length=$limit
    echo "$length"
}
out_length=$(available stdout "$out")
err_length=$(available stderr "$err")
echo "$state ${code:--} $out_length $err_length"
read_file stdout tail -c "+$((out + 1))" | head -c "$out_length"
read_file stderr tail -c "+$((err + 1))" | head -c "$err_length"
exit 0
