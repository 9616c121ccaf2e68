#!/bin/sh
# Gives this machine's daemon the image that is asked for by default, where no
# image server has it: Ubuntu from its own packages, as `ubuntu/24.04`. From
# then on the tests run on it, and every other pixel of this daemon:
#
#   tests/it/support/ubuntu-image.sh http://MIRROR/ubuntu [KEYRING]
#   cargo test
#   incus image delete ubuntu/24.04
#
# Needs root, the incus client, what src/host/scripts/build-image.sh needs, and
# the archive's keys (Debian: ubuntu-keyring).
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 http://MIRROR/ubuntu [KEYRING]" >&2
    exit 2
fi
mirror=$1
keyring=${2:-/usr/share/keyrings/ubuntu-archive-keyring.gpg}
build=$(dirname "$0")/../../../src/host/scripts/build-image.sh

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cat >"$work/sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: noble
Components: main universe
Signed-By: $keyring
SOURCES
sh "$build" --work "$work" --out "$work" --suite noble --mirror "$mirror" \
    --components main,universe --keyring "$keyring" --sources "$work/sources" \
    --arch "$(uname -m)" --os Ubuntu --release noble --description 'Ubuntu 24.04 from its packages'
incus image import "$work/metadata.tar.xz" "$work/rootfs.squashfs" --alias ubuntu/24.04
