#!/bin/sh
# Lists the user's sessions, each line headed by what keeps it. A line with the
# keeper alone says that it is there, whether it has sessions or not.
unset XDG_RUNTIME_DIR
tab=$(printf '\t')
if command -v zmx >/dev/null; then
    echo "zmx$tab"
    zmx list 2>/dev/null | sed "s/^/zmx$tab/"
fi
if command -v tmux >/dev/null; then
    echo "tmux$tab"
    tmux -L pixels list-sessions \
        -F "tmux${tab}name=#{session_name}${tab}clients=#{session_attached}${tab}created=#{session_created}" \
        2>/dev/null
fi
exit 0
