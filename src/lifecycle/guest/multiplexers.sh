#!/bin/sh
# Prints the terminal multiplexers that the user has, one a line.
for program in zmx tmux; do
    command -v "$program" >/dev/null && echo "$program"
done
exit 0
