#!/bin/sh
# Sends a signal to all processes of a command that `pixels exec` started: those
# with the id in their environment, and their descendants (sudo, for example,
# clears the environment).
# usage: signal-tree.sh SIGNAL ID [SECONDS]
# With SECONDS, kills the processes that remain after that time.
# Exit code 1: there is no such process.
set -u
signal=$1
id=$2
seconds=${3:-0}

# Adds the processes of the command to `tree`, a list of process ids between
# blanks. Ids stay in the list, because a child that outlives its parent can no
# longer be found.
find_processes() {
    # shellcheck disable=SC2013 # numbers only
    for file in $(grep -lsxz "PIXELS_EXEC_ID=$id" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        add "${pid%/environ}"
    done
    [ "$tree" = " " ] && return
    pairs=""
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        pid=${line%% *}
        # The program name is in parentheses and may contain any character.
        rest=${line##*) }
        rest=${rest#* }
        pairs="$pairs $pid:${rest%% *}"
    done
    grown=yes
    while [ -n "$grown" ]; do
        grown=""
        for pair in $pairs; do
            case $tree in
            *" ${pair%:*} "*) ;;
            *" ${pair#*:} "*)
                add "${pair%:*}"
                grown=yes
                ;;
            esac
        done
    done
}

add() {
    case $tree in *" $1 "*) ;; *) tree="$tree$1 " ;; esac
}

# Keeps the running processes in `tree` and adds those forked since.
# Fails if there are none.
remaining() {
    find_processes
    known=$tree
    tree=" "
    for pid in $known; do
        kill -0 "$pid" 2>/dev/null && tree="$tree$pid "
    done
    [ "$tree" != " " ]
}

tree=" "
find_processes
[ "$tree" = " " ] && exit 1
# Parents first: a shell must not continue with its next command after its child
# got the signal.
# shellcheck disable=SC2086
tree=" $(printf '%s\n' $tree | sort -n | tr '\n' ' ')"
# shellcheck disable=SC2086 # one word per process
kill "-$signal" $tree 2>/dev/null
if [ "$signal" != KILL ]; then
    [ "$seconds" = 0 ] && exit 0
    tenths=$((seconds * 10))
    while remaining; do
        [ "$tenths" -gt 0 ] || break
        tenths=$((tenths - 1))
        sleep 0.1
    done
fi
for _ in 1 2 3 4 5; do
    remaining || exit 0
    # shellcheck disable=SC2086
    kill -KILL $tree 2>/dev/null
done
exit 0
