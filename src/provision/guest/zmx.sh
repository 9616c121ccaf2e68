#!/bin/sh
# Installs zmx as described in /etc/pixels/zmx: a line url=, and optionally a line
# sha256= to verify the download.
set -eu
url=$(sed -n 's/^url=//p' /etc/pixels/zmx)
sum=$(sed -n 's/^sha256=//p' /etc/pixels/zmx)
url=$(printf '%s' "$url" | sed "s/{arch}/$(uname -m)/")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
curl -fsSL --connect-timeout 20 --max-time 300 --retry 4 -o "$dir/zmx.tar.gz" "$url"
if [ -n "$sum" ]; then
    echo "$sum  $dir/zmx.tar.gz" | sha256sum -c -
fi
tar -xzf "$dir/zmx.tar.gz" -C "$dir" zmx
install -m 0755 "$dir/zmx" /usr/local/bin/zmx
# zmx opens a log file in a folder of /tmp that any user may have created.
runuser -u pixel -- zmx --version
