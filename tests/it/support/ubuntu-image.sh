#!/bin/sh
# Builds the default image `ubuntu/24.04` from Ubuntu packages and imports it
# into this machine's daemon, for use without an image server. Tests and all
# other pixels of this daemon then use the image:
#
#   tests/it/support/ubuntu-image.sh http://MIRROR/ubuntu [KEYRING]
#   cargo test
#   incus image delete ubuntu/24.04
#
# Requires root, the incus client, the tools of build-image.sh, and the
# archive's keys (Debian: ubuntu-keyring).
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
