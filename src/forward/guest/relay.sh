#!/bin/sh
# Joins stdin and stdout with a port on this machine's loopback, each direction
# until its own end. Perl and Python tell on stderr how much came from the port
# when that has ended; the others end then.
#
#   $1  the port    $2  relay.pl    $3  relay.py
#
# Exit codes: 111 nobody listens there, 97 there is nothing to do it with.
if command -v perl >/dev/null; then
    exec perl -e "$2" "$1"
elif command -v python3 >/dev/null; then
    exec python3 -c "$3" "$1"
elif command -v socat >/dev/null; then
    exec socat -t 30 - "TCP:localhost:$1"
elif command -v nc >/dev/null; then
    exec nc 127.0.0.1 "$1"
fi
exit 97
