#!/bin/sh
# Puts what comes on stdin into place, whole or not at all: it is unpacked
# beside its destination under a name of its own, and moved when all is there.
#
#   $1  destination    $2  as | into | contents | raw | filled | filled-into
#   $3  a name nobody else uses    $4  UID:GID of what is made on the way
#   $5  for `raw` and `filled…`, the mode
#
# `filled…`: the one file is written from outside, at the place that is printed.
# A line on stdin says that it is all there ($3), or that no more can be written
# (`stuck`): why, only the system in here can tell.
#
#   $6  when it was changed, in seconds since 1970
#   $7  its UID:GID    $8  its name in a directory
#
# Exit codes: 95 the input was cut off, 97 this way is none here, 1 what stderr says.
dest=$1 how=$2 id=$3 owner=$4 mode=$5
changed=$6 own=$7 name=$8
LC_ALL=C
export LC_ALL
umask 022
# Nobody may be left to read what is said; the cleaning up comes after it.
trap '' PIPE

fail() {
    echo "$1" >&2
    exit "${2:-1}"
}

# A directory with its parents; those that are made get the owner.
make() {
    if [ -z "$1" ] || [ -d "$1" ]; then
        return 0
    fi
    make "${1%/*}" && mkdir -- "$1" && chown "$owner" "$1"
}

# $1: what is ready; $2: its final name.
place() {
    if [ -L "$2" ] || [ ! -d "$2" ]; then
        mv -fT -- "$1" "$2"
    elif [ -d "$1" ] && [ ! -L "$1" ]; then
        cp -alf -- "$1/." "$2/"
    else
        fail "$2 is a directory in the pixel"
    fi
}

unpack() {
    command -v tar >/dev/null || fail "no tar in the pixel" 97
    # For GNU tar, which else reads in small pieces.
    TAR_OPTIONS=--blocking-factor=256
    export TAR_OPTIONS
    mkdir -m 700 -- "$stage" || exit 1
    tar -xpf - -C "$stage" || exit 1
    # An archive that was cut off between two files looks whole.
    [ -f "$stage/done" ] || fail "the transfer was cut off" 95
}

copy() {
    mkdir -m 700 -- "$stage" || exit 1
    cat >"$stage/raw" || exit 1
    [ "$(tail -c "${#id}" "$stage/raw")" = "$id" ] || fail "the transfer was cut off" 95
    truncate -s "-${#id}" "$stage/raw" && chmod "$mode" "$stage/raw" && chown "$owner" "$stage/raw"
}

fill() {
    mkdir -m 700 -- "$stage" && cd -- "$stage" || exit 1
    # Somebody may have put another directory there meanwhile. What we are in
    # stays what it is, whatever its names come to lead to.
    [ "$(stat -c %u:%a .)" = 0:700 ] || fail "$stage was replaced"
    umask 077
    set -C
    : >raw || exit 1
    # Not $$, which is the process that started this one.
    read -r process word </proc/self/stat || exit 97
    echo "/proc/$process/cwd/raw"
    [ "$own" = 0:0 ] || chown "$own" raw || exit 1
    word=
    read -r word || :
    if [ "$word" = stuck ]; then
        head -c 1048576 /dev/zero >>raw || exit 1
    fi
    [ "$word" = "$id" ] || fail "the transfer was cut off" 95
    chmod "$mode" raw || exit 1
    # Fractions of a second are more than busybox understands.
    touch -cd "@$changed" raw 2>/dev/null || touch -cd "@${changed%.*}" raw || exit 1
}

work() {
    if [ -d "$dest" ]; then
        case $how in
        as) how=into ;;
        filled) how=filled-into ;;
        raw) fail "$dest is a directory in the pixel" ;;
        esac
        stage=${dest%/}/$id
    elif [ "${how#filled-}" = into ]; then
        make "$dest" || exit 1
        stage=$dest/$id
    else
        make "${dest%/*}" || exit 1
        stage=${dest%/*}/$id
    fi
    trap 'rm -rf -- "$stage"' EXIT
    case $how in
    raw)
        copy || exit 1
        place "$stage/raw" "$dest"
        ;;
    filled)
        fill
        place raw "$dest"
        ;;
    filled-into)
        fill
        place raw "${dest%/}/$name"
        ;;
    as | into)
        unpack
        for entry in "$stage"/tree/* "$stage"/tree/.[!.]* "$stage"/tree/..?*; do
            if [ -e "$entry" ] || [ -L "$entry" ]; then
                case $how in
                as) place "$entry" "$dest" ;;
                into) place "$entry" "${dest%/}/${entry##*/}" ;;
                esac || exit 1
            fi
        done
        ;;
    contents)
        unpack
        if [ -d "$dest" ]; then
            # The directory itself stays as it is.
            chmod "$(stat -c %a -- "$dest")" "$stage/tree"
            chown "$(stat -c %u:%g -- "$dest")" "$stage/tree"
        fi
        place "$stage/tree" "$dest"
        ;;
    esac || exit 1
}

# Not in this process: it is killed when the connection ends, and then somebody
# must be left to clean up.
exec 3<&0
(work) <&3 &
exec 3<&- </dev/null
wait $!
