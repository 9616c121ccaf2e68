#!/bin/sh
# Installs mise for users who can reach only a mirror of the npm registry: node
# from the distribution, npm and mise from the mirror.
set -eu
registry="$PIXELS_TEST_REGISTRY"
tarball() {
    curl -fsSL --retry 3 "$registry/$1/$2" |
        node -p 'JSON.parse(require("fs").readFileSync(0)).dist.tarball'
}
sudo DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nodejs
mkdir -p ~/.local/bin ~/.local/lib/npm
curl -fsSL --retry 3 "$(tarball npm 10.9.2)" | tar -xz -C ~/.local/lib/npm --strip-components 1
printf '#!/bin/sh\nexec node ~/.local/lib/npm/bin/npm-cli.js "$@"\n' >~/.local/bin/npm
chmod 0755 ~/.local/bin/npm
printf 'registry=%s/\n' "$registry" >~/.npmrc
curl -fsSL --retry 3 "$(tarball "@jdxcode/mise-linux-$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')" latest)" |
    tar -xz -C ~/.local --strip-components 1
~/.local/bin/mise --version
