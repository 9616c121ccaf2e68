#!/bin/sh
# Receives files in a private directory next to the destination, and moves
# complete files to the destination.
#
# Arguments are NAME=VALUE:
#   dest       absolute path of the destination
#   format     format of the input:
#                tar     on stdin, a tar archive with the entries in tree/ and
#                        the end mark `done`
#                stream  on stdin, the content of one file, then the id
#                sftp    the content of one file, written by SFTP to the path that
#                        this script prints, then a line on stdin: the id, or
#                        `failed` if the server could not write
#   placement  rename    the only entry becomes `dest`, or is placed in `dest` if
#                        `dest` is a directory
#              into      all entries are placed in the directory `dest`
#              contents  tree/ is merged into the directory `dest` (tar only)
#   id         a unique name for the private directory and the end mark
#   owner      UID:GID of new parent directories and of a streamed file
#   mode       file mode (stream, sftp)
#   mtime      seconds since 1970 (sftp)
#   fileowner  UID:GID of the file (sftp)
#   name       name of the file in a directory (sftp)
#
# Exit codes: 95 the input was cut off, 97 the pixel does not support this format,
# 1 other failures, explained on stderr.
dest='' format='' placement='' id='' owner='' mode='' mtime='' fileowner='' name=''
for argument; do
    value=${argument#*=}
    case $argument in
    dest=*) dest=$value ;;
    format=*) format=$value ;;
    placement=*) placement=$value ;;
    id=*) id=$value ;;
    owner=*) owner=$value ;;
    mode=*) mode=$value ;;
    mtime=*) mtime=$value ;;
    fileowner=*) fileowner=$value ;;
    name=*) name=$value ;;
    esac
done
LC_ALL=C
export LC_ALL
umask 022
# The cleanup must run even if the reader of stderr has exited.
trap '' PIPE

fail() {
    echo "$1" >&2
    exit "${2:-1}"
}

# Creates directory $1 and its missing parents, owned by $owner.
create_dirs() {
    if [ -z "$1" ] || [ -d "$1" ]; then
        return 0
    fi
    create_dirs "${1%/*}" && mkdir -- "$1" && chown "$owner" "$1"
}

# Moves the entry $1 to its final path $2. Merges directories.
place() {
    if [ -L "$2" ] || [ ! -d "$2" ]; then
        mv -fT -- "$1" "$2"
    elif [ -d "$1" ] && [ ! -L "$1" ]; then
        cp -alf -- "$1/." "$2/"
    else
        fail "$2 is a directory in the pixel"
    fi
}

unpack_tar() {
    command -v tar >/dev/null || fail "no tar in the pixel" 97
    # With this option, GNU tar reads larger blocks.
    TAR_OPTIONS=--blocking-factor=256
    export TAR_OPTIONS
    mkdir -m 700 -- "$stage" || exit 1
    tar -xpf - -C "$stage" || exit 1
    # An archive that was cut off between two files looks complete to tar.
    [ -f "$stage/done" ] || fail "the transfer was cut off" 95
}

receive_tar() {
    unpack_tar
    if [ "$placement" = contents ] && [ -d "$dest" ]; then
        # A merge sets the attributes of the directory, as only root and its owner can.
        case $(id -u) in
        0 | "$(stat -c %u -- "$dest")") ;;
        *) placement=into ;;
        esac
    fi
    if [ "$placement" = contents ]; then
        if [ -d "$dest" ]; then
            # The existing directory keeps its attributes.
            chmod "$(stat -c %a -- "$dest")" "$stage/tree"
            chown "$(stat -c %u:%g -- "$dest")" "$stage/tree"
        fi
        place "$stage/tree" "$dest"
        return
    fi
    for entry in "$stage"/tree/* "$stage"/tree/.[!.]* "$stage"/tree/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then
            case $placement in
            rename) place "$entry" "$dest" ;;
            into) place "$entry" "${dest%/}/${entry##*/}" ;;
            esac || exit 1
        fi
    done
}

receive_stream() {
    mkdir -m 700 -- "$stage" || exit 1
    file=$stage/content
    cat >"$file" || exit 1
    [ "$(tail -c "${#id}" "$file")" = "$id" ] || fail "the transfer was cut off" 95
    truncate -s "-${#id}" "$file" && chmod "$mode" "$file" && chown "$owner" "$file" || exit 1
    place "$file" "$dest"
}

receive_sftp() {
    mkdir -m 700 -- "$stage" && cd -- "$stage" || exit 1
    # Another user of the pixel may have replaced the directory. The working
    # directory stays the same directory, whatever its path leads to.
    [ "$(stat -c %u:%a .)" = "$(id -u):700" ] || fail "$stage was replaced"
    umask 077
    set -C
    : >content || exit 1
    # $$ would be the process id of the parent shell.
    read -r process rest </proc/self/stat || exit 97
    echo "/proc/$process/cwd/content"
    [ "$fileowner" = 0:0 ] || chown "$fileowner" content || exit 1
    word=''
    read -r word || :
    if [ "$word" = failed ]; then
        # The script also writes, so that a full disk is reported on stderr.
        head -c 1048576 /dev/zero >>content || exit 1
    fi
    [ "$word" = "$id" ] || fail "the transfer was cut off" 95
    chmod "$mode" content || exit 1
    # The busybox version of touch accepts only whole seconds.
    touch -cd "@$mtime" content 2>/dev/null ||
        touch -cd "@${mtime%.*}" content || exit 1
    case $placement in
    rename) place content "$dest" ;;
    *) place content "${dest%/}/$name" ;;
    esac
}

receive() {
    if [ -d "$dest" ]; then
        if [ "$format" = stream ]; then
            fail "$dest is a directory in the pixel"
        fi
        [ "$placement" != rename ] || placement=into
        stage=${dest%/}/$id
    elif [ "$placement" = into ]; then
        create_dirs "$dest" || exit 1
        stage=$dest/$id
    else
        create_dirs "${dest%/*}" || exit 1
        stage=${dest%/*}/$id
    fi
    trap 'rm -rf -- "$stage"' EXIT
    "receive_$format" || exit 1
}

# Runs in the background: this process is killed when the connection ends, but the
# background process must still delete the private directory.
exec 3<&0
(receive) <&3 &
exec 3<&- </dev/null
wait $!
