#!/bin/sh
# Becomes a command in the environment of a login: reads the profiles as `sh -l`
# does. The command's arguments reach it unchanged.
# usage: login-exec.sh UID TTY DIRECTORY VARIABLES COMMAND [ARGUMENT]...
# UID is the user's own id. TTY is "tty" if there is a terminal, else empty. An
# empty DIRECTORY keeps the present one; a missing one is exit code 125.
# VARIABLES names shell code that sets variables: a file, which is deleted, or the
# number of lines at the beginning of stdin. Arguments and the initial environment
# are visible in the process list of the server, this code is not.
# PIXELS_EXEC_PATH, if set, becomes PATH after the profiles, which set PATH.
pixels_uid=$1 pixels_tty=$2 pixels_dir=$3 pixels_code='' pixels_lines=0
case $4 in
/*)
    # shellcheck source=/dev/null
    . "$4" 2>/dev/null || exit 125
    rm -f -- "$4"
    ;;
*) pixels_lines=$4 ;;
esac
shift 4
while [ "$pixels_lines" -gt 0 ]; do
    # Shells read stdin byte by byte here: the command gets everything that follows.
    IFS= read -r pixels_line || exit 125
    pixels_code="$pixels_code$pixels_line
"
    pixels_lines=$((pixels_lines - 1))
done
# Readonly variables of some shells, such as UID in bash, keep their value.
eval "$pixels_code" 2>/dev/null
unset pixels_code pixels_line

# While first-boot.sh runs in place of init, the pixel may still have the
# identity of its source. Its process is called sh. Waits at most 5 s.
pixels_tries=0
while [ "$pixels_tries" -lt 500 ] && { read -r pixels_init </proc/1/comm; } 2>/dev/null &&
    [ "$pixels_init" = sh ]; do
    pixels_tries=$((pixels_tries + 1))
    sleep 0.01
done

# Profiles call `id -u` (Debian's twice) and root's calls `mesg n`, which fails
# without a terminal. Starting the two programs would take longer than all the
# rest of this script.
# shellcheck disable=SC2317 # called by profiles
id() {
    case $* in
    -u) echo "$pixels_uid" ;;
    *) command id "$@" ;;
    esac
}
if [ -z "$pixels_tty" ]; then
    # shellcheck disable=SC2317 # called by profiles
    mesg() { return 2; }
fi
# shellcheck source=/dev/null
[ ! -r /etc/profile ] || . /etc/profile
# shellcheck source=/dev/null
[ ! -r "$HOME/.profile" ] || . "$HOME/.profile"
unset -f id mesg

if [ -n "${PIXELS_EXEC_PATH+set}" ]; then
    PATH=$PIXELS_EXEC_PATH
    export PATH
    unset PIXELS_EXEC_PATH
fi
# Not left to the daemon, which silently uses / for a missing directory.
if [ -n "$pixels_dir" ]; then
    cd -- "$pixels_dir" 2>/dev/null || {
        echo "pixels: no directory $pixels_dir in the pixel" >&2
        exit 125
    }
fi
exec "$@"
