#!/bin/sh
# Prints the sessions of the user, one a line, each after the name of its
# multiplexer and a tab. A line with that name alone shows that it is installed.
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
