#!/bin/sh
# Installs Python with pip, venv and pipx.
set -eu
apt=/usr/local/lib/pixels/apt

"$apt" update
"$apt" install --no-install-recommends \
    python3 python3-pip python3-venv pipx
"$apt" clean
rm -rf /var/lib/apt/lists/*
