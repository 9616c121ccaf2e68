#!/bin/sh
# Sends a signal to a command that `pixels exec` started and to every process
# that came of it. Processes are known by the id in their environment, or as
# descendants of such a one (sudo, for example, clears the environment).
# usage: signal-tree.sh SIGNAL ID
set -u
signal=$1
id=$2

members() {
    tree=" "
    # shellcheck disable=SC2013 # numbers only
    for file in $(grep -lsxz "PIXELS_EXEC_ID=$id" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        tree="$tree${pid%/environ} "
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
            pid=${pair%:*}
            case $tree in *" $pid "*) continue ;; esac
            case $tree in *" ${pair#*:} "*)
                tree="$tree$pid "
                grown=yes
                ;;
            esac
        done
    done
}

members
[ "$tree" = " " ] && exit 1
# shellcheck disable=SC2086 # one word per process
kill "-$signal" $tree 2>/dev/null
[ "$signal" = KILL ] || exit 0
# What was forked meanwhile.
for _ in 1 2 3 4 5; do
    members
    [ "$tree" = " " ] && exit 0
    # shellcheck disable=SC2086
    kill -KILL $tree 2>/dev/null
done
exit 0
