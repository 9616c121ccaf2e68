#!/bin/sh
# Puts the policy that waits in a folder of its own into force on this running
# machine, one caller at a time. When that fails, what was in force before is
# again.
# usage: apply.sh FOLDER ID
# Exit code 90: this machine can never enforce one.
set -eu
new=$1 id=$2
dir=/var/lib/pixels/egress
code=/usr/local/lib/pixels/egress
exec 9>"$dir/lock"
flock 9
# Of callers that were killed.
find "$dir" -maxdepth 1 -name 'new-*' -mmin +60 -exec rm -rf {} +

put() {
    "$code/up"
    if cmp -s "$code/version" /run/pixels/egress-version; then
        known=yes
    else
        known=
        systemctl daemon-reload
    fi
    # Started, not restarted: the network requires it and would go down with it.
    systemctl start pixels-egress.service
    systemctl restart pixels-resolver.service
    systemctl start pixels-upstream.path
    # Those that did without us because of us.
    for network in systemd-networkd networking NetworkManager; do
        ! systemctl -q is-enabled "$network" 2>/dev/null || systemctl --no-block start "$network"
    done
    # Answers that were given under another policy are worth nothing; whom to ask,
    # resolved reads when it starts.
    if [ "$known" ]; then
        resolvectl flush-caches 2>/dev/null || :
    else
        # However often the policy changes: services have a limit of starts.
        systemctl reset-failed systemd-resolved.service 2>/dev/null || :
        systemctl try-restart systemd-resolved.service 2>/dev/null || :
        cp "$code/version" /run/pixels/egress-version
    fi
}

back() {
    trap - EXIT
    rm -rf "$new"
    if [ -e "$dir/old/ruleset" ]; then
        mv "$dir/old/ruleset" "$dir/old/resolver" "$dir"
        put || :
    else
        "$code/lift" || :
    fi
}

# This may be the machine's first second.
tries=0
until systemctl list-jobs >/dev/null 2>&1 || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
rm -rf "$dir/old"
mkdir "$dir/old"
for file in ruleset resolver; do
    [ ! -e "$dir/$file" ] || cp "$dir/$file" "$dir/old/"
done
trap back EXIT
if ! command -v nft >/dev/null || ! command -v dnsmasq >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "this image has neither nft and dnsmasq nor apt-get to install them with" >&2
        exit 90
    fi
    tries=0
    until ip -4 route show default | grep -q . || [ $tries -ge 150 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    apt-get -q -o DPkg::Lock::Timeout=300 update >&2
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends \
        nftables dnsmasq-base >&2 </dev/null
fi
dnsmasq --test --conf-file="$new/resolver" 2>/dev/null || {
    echo "the resolver's configuration is refused" >&2
    exit 1
}
mv "$new/ruleset" "$new/resolver" "$dir"
put
"$code/check" "$id" || {
    echo "the policy is not in force although nothing failed" >&2
    exit 1
}
mkdir -p /etc/sudoers.d
install -m 0440 "$code/sudoers" /etc/sudoers.d/pixel.new
mv /etc/sudoers.d/pixel.new /etc/sudoers.d/pixel
trap - EXIT
rm -rf "$dir/old" "$new"
