#!/bin/bash
# Packs built binaries into what a release consists of.
#
#   .github/package.sh BUILT DIST
#
# BUILT holds one folder a target, named after it, each with a `pixels` in it.
# DIST gets an archive for each, the bill of materials and SHA256SUMS. Manual
# pages and completions are those of the first binary that runs here.
#
# The same binaries give the same archives: times are the commit's, or those of
# SOURCE_DATE_EPOCH.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -ne 2 ]; then
    echo "usage: $0 BUILT DIST" >&2
    exit 2
fi
built=$(realpath -- "$1")
mkdir -p -- "$2"
dist=$(realpath -- "$2")

version=$(cargo metadata --locked --no-deps --format-version 1 |
    jq -r '.packages[] | select(.name == "pixels").version')
moment=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

guide=
for binary in "$built"/*/pixels; do
    install -m 755 -- "$binary" "$work/guide"
    if printed=$("$work/guide" --version 2>/dev/null); then
        guide=$work/guide
        break
    fi
done
if [ -z "$guide" ]; then
    echo "$0: no binary in $built runs here" >&2
    exit 1
fi
case $printed in
"pixels $version "*) ;;
*)
    echo "$0: the binary is $printed, but the version in Cargo.toml is $version" >&2
    exit 1
    ;;
esac

mkdir "$work/share" "$work/share/completions"
"$guide" man --dir "$work/share/man"
"$guide" completions bash >"$work/share/completions/pixels.bash"
"$guide" completions zsh >"$work/share/completions/_pixels"
"$guide" completions fish >"$work/share/completions/pixels.fish"

for binary in "$built"/*/pixels; do
    target=$(basename "$(dirname "$binary")")
    case $target in
    *-linux-musl)
        # Asks for no dynamic linker: it runs where there is no libc.
        if readelf --program-headers --wide "$binary" | grep -q ' INTERP '; then
            echo "$0: the binary for $target is not static" >&2
            exit 1
        fi
        ;;
    esac
    name=pixels-$version-$target
    mkdir "$work/$name"
    install -m 755 -- "$binary" "$work/$name/pixels"
    cp -R -- "$work/share/." README.md SECURITY.md LICENSE config.example.toml "$work/$name/"
    chmod -R u=rwX,go=rX "$work/$name"
    tar --create --sort=name --format=gnu --owner=0 --group=0 --numeric-owner \
        --mtime="@$moment" --directory="$work" "$name" |
        gzip --no-name >"$dist/$name.tar.gz"
done

SOURCE_DATE_EPOCH=$moment .github/sbom.sh >"$dist/pixels-$version.cdx.json"

cd "$dist"
rm -f SHA256SUMS
sha256sum -- pixels-* >"$work/SHA256SUMS"
mv -- "$work/SHA256SUMS" SHA256SUMS
