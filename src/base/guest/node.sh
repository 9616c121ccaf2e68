#!/bin/sh
# Installs Node.js 22 from NodeSource, or the distribution's Node.js if NodeSource
# cannot be reached. Fails if the key has an unexpected fingerprint.
set -eu
apt=/usr/local/lib/pixels/apt
keyring=/etc/apt/keyrings/nodesource.gpg
list=/etc/apt/sources.list.d/nodesource.list
fingerprint=6F71F525282841EEDAF851B42F59B5F99B1BE0B4
source=https://deb.nodesource.com

"$apt" update
"$apt" install --no-install-recommends ca-certificates curl gnupg
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if curl -fsSL --retry 3 --connect-timeout 20 --max-time 120 -o "$work/key" \
    "$source/gpgkey/nodesource-repo.gpg.key"; then
    found=$(gpg --homedir "$work" --batch --with-colons --show-keys "$work/key" |
        awk -F: '$1 == "fpr" { print $10; exit }')
    [ "$found" = "$fingerprint" ] || {
        echo "the NodeSource key has fingerprint $found, expected $fingerprint" >&2
        exit 1
    }
    mkdir -p /etc/apt/keyrings
    gpg --homedir "$work" --batch --yes --dearmor -o "$keyring" "$work/key"
    chmod 0644 "$keyring"
    echo "deb [signed-by=$keyring] $source/node_22.x nodistro main" >"$list"
    "$apt" update
    "$apt" install --no-install-recommends nodejs
else
    echo "cannot reach NodeSource: installing the distribution's Node.js"
    "$apt" install --no-install-recommends nodejs npm
fi
node --version
"$apt" clean
rm -rf /var/lib/apt/lists/*
