#!/bin/sh
# Installs mise with the installer of /etc/pixels/installer-url, and the tools
# listed in the mise configuration of the user pixel. Only the user pixel writes
# below its home, because root must not follow a link of the user.
set -eu
user() {
    runuser -u pixel -- env HOME=/home/pixel USER=pixel \
        PATH=/home/pixel/.local/share/mise/shims:/home/pixel/.local/bin:/usr/local/bin:/usr/bin:/bin \
        MISE_YES=1 MISE_HTTP_TIMEOUT=120 "$@"
}

# Downloads URL to FILE: 5 attempts, except after an HTTP error (curl exit code 22).
# usage: fetch URL FILE
fetch() {
    tries=0
    until curl -fsSL --connect-timeout 20 --max-time 300 -o "$2" "$1"; do
        code=$?
        tries=$((tries + 1))
        [ "$code" -ne 22 ] && [ "$tries" -lt 5 ] || return "$code"
        sleep 3
    done
}

cd /home/pixel
if ! user sh -c 'command -v mise' >/dev/null; then
    url=$(cat /etc/pixels/installer-url)
    echo "installing mise from $url"
    script=$(mktemp)
    trap 'rm -f "$script"' EXIT
    fetch "$url" "$script"
    chmod 0755 "$script"
    user sh "$script"
fi
# shellcheck disable=SC2016 # for the user's shell to expand
activate='command -v mise >/dev/null && eval "$(mise activate bash)"'
# shellcheck disable=SC2016
user sh -c 'grep -qsxF "$1" .bashrc || echo "$1" >>.bashrc' activate "$activate"

tries=0
until user mise install; do
    tries=$((tries + 1))
    [ "$tries" -lt 3 ] || exit 1
    echo "mise install failed, trying again"
    sleep 5
done
user mise ls
