#!/bin/sh
# Opens a session, or attaches to it if it exists. Without a multiplexer, opens a
# plain login shell. bash is started as a login shell to read the profiles.
# usage: attach.sh none|zmx|tmux SESSION
# Sessions outlive this command: their processes must not carry its id, by which
# `pixels exec` finds the processes to signal.
case $1 in
zmx)
    unset PIXELS_EXEC_ID XDG_RUNTIME_DIR
    exec zmx attach "$2" bash -l
    ;;
tmux)
    unset PIXELS_EXEC_ID
    conf=/usr/local/lib/pixels/tmux.conf
    [ -r "$conf" ] || conf=/dev/null
    exec tmux -L pixels -f "$conf" new-session -A -s "$2" bash -l
    ;;
*)
    if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi
    ;;
esac
