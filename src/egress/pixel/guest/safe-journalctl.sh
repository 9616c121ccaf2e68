#!/bin/sh
# Prints the journal, of all services or of one.
# usage: safe-journalctl [-u SERVICE] [-n LINES]
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 SYSTEMD_PAGER=cat SYSTEMD_PAGERSECURE=1
cd /

refuse() {
    echo "safe-journalctl: $1" >&2
    exit 2
}

unit="" lines=200
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || refuse "only -u SERVICE and -n LINES are allowed"
    case $1 in
    -u)
        case $2 in
        "" | *[!A-Za-z0-9:._@-]* | [!A-Za-z0-9]*) refuse "invalid service name" ;;
        esac
        unit=$2
        ;;
    -n)
        case $2 in
        "" | *[!0-9]* | ???????*) refuse "invalid number of lines" ;;
        esac
        lines=$2
        ;;
    *) refuse "only -u SERVICE and -n LINES are allowed" ;;
    esac
    shift 2
done
exec journalctl --no-pager --lines="$lines" ${unit:+"--unit=$unit"} </dev/null
