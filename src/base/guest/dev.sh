#!/bin/sh
# Installs common development tools.
set -eu
apt=/usr/local/lib/pixels/apt

"$apt" update
"$apt" install --no-install-recommends \
    build-essential ca-certificates curl git jq vim wget
"$apt" clean
rm -rf /var/lib/apt/lists/*
