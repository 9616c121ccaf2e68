#!/bin/sh
# Sends a signal to a command that `pixels exec` started and to every process
# that came of it. Processes are known by the id in their environment, or as
# descendants of such a one (sudo, for example, clears the environment).
# With SECONDS, whatever of them is left after that time is killed.
# usage: signal-tree.sh SIGNAL ID [SECONDS]
set -u
signal=$1
id=$2
seconds=${3:-0}

# Extends `tree`, a list of process ids between blanks. What is in it stays in
# it: a child that outlives its parent is known only from before.
members() {
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
        # The command's name is in parentheses and may contain anything.
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

# Leaves in `tree` what still runs, and adds what was forked meanwhile.
remaining() {
    members
    known=$tree
    tree=" "
    for pid in $known; do
        kill -0 "$pid" 2>/dev/null && tree="$tree$pid "
    done
    [ "$tree" != " " ]
}

tree=" "
members
[ "$tree" = " " ] && exit 1
# Parents first: a shell must not go on to its next command when only its
# child has the signal yet.
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
