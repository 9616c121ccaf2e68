#!/bin/sh
# Installs the missing packages of /etc/pixels/packages and the CA certificates.
set -eu
missing=""
while read -r package; do
    [ -n "$package" ] || continue
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) || state=""
    [ "$state" = "install ok installed" ] || missing="$missing $package"
done </etc/pixels/packages
if [ -n "$missing" ]; then
    /usr/local/lib/pixels/apt update
    # shellcheck disable=SC2086 # one word per package
    /usr/local/lib/pixels/apt install --no-install-recommends $missing
fi
if command -v update-ca-certificates >/dev/null; then
    update-ca-certificates
fi
# The user gets full sudo, unless the pixel enforces its policy itself. A policy may
# be applied at the same time, so check again afterwards.
if getent group sudo >/dev/null && [ ! -e /usr/local/lib/pixels/egress/load ]; then
    usermod --append --groups sudo pixel
    [ ! -e /usr/local/lib/pixels/egress/load ] || usermod --groups "" pixel
fi
if [ -s /root/.ssh/authorized_keys ]; then
    systemctl enable --now ssh.service
fi
