#!/bin/sh
# Applies the policy in the directory DIR to this running machine. One caller at a
# time. On failure, restores the previous policy.
# usage: apply.sh DIR ID
# Exit status 90: cannot install the packages in this image.
set -eu
new=$1 id=$2
dir=/var/lib/pixels/egress
code=/usr/local/lib/pixels/egress
exec 9>"$dir/lock"
flock 9
# Directories of callers that were killed.
find "$dir" -maxdepth 1 -name 'new-*' -mmin +60 -exec rm -rf {} +

apply() {
    # Also ends a provisioning lease.
    "$code/load"
    systemctl stop pixels-resolver-lease.service 2>/dev/null || :
    if cmp -s "$code/version" /run/pixels/egress-version; then
        units_loaded=yes
    else
        units_loaded=
        systemctl daemon-reload
    fi
    "$code/forwarder" refresh
    # Start, not restart: the network units require pixels-egress.service and would
    # stop with it.
    systemctl start pixels-egress.service pixels-forwarder.service
    systemctl restart pixels-resolver.service
    systemctl start pixels-upstream.path
    # They do not start without the packet filter.
    for network in systemd-networkd networking NetworkManager; do
        ! systemctl -q is-enabled "$network" 2>/dev/null || systemctl --no-block start "$network"
    done
    # Cached answers are those of the previous policy. resolved reads the address
    # of its name server only when it starts.
    if [ "$units_loaded" ]; then
        resolvectl flush-caches 2>/dev/null || :
    else
        # systemd limits the number of starts, and policies may change often.
        systemctl reset-failed systemd-resolved.service 2>/dev/null || :
        systemctl try-restart systemd-resolved.service 2>/dev/null || :
        cp "$code/version" /run/pixels/egress-version
    fi
}

restore() {
    trap - EXIT
    if [ -e "$dir/old/ruleset" ]; then
        # An earlier version: its start script, which replaced `#` with the name
        # servers of the network, no longer exists. Use the forwarder.
        if [ ! -e "$dir/old/forwarder" ]; then
            sed -i 's|^\(server=.*[/=]\)#$|\1127.0.0.2#551|' "$dir/old/resolver"
            [ ! -e "$new/forwarder" ] || mv "$new/forwarder" "$dir"
        fi
        mv "$dir/old"/* "$dir"
        rm -rf "$new"
        apply || :
    else
        rm -rf "$new"
        "$code/remove" || :
    fi
}

# systemd may still be starting.
tries=0
until systemctl list-jobs >/dev/null 2>&1 || [ $tries -ge 600 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
rm -rf "$dir/old"
mkdir "$dir/old"
for file in ruleset resolver forwarder; do
    [ ! -e "$dir/$file" ] || cp "$dir/$file" "$dir/old/"
done
trap restore EXIT
# Whether dnsmasq is version 2.90 or later.
if ! command -v nft >/dev/null || ! dnsmasq --test --conf-file=/dev/null --filter-rr=HTTPS 2>/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "the image has no nft or dnsmasq, and no apt-get to install them" >&2
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
    echo "dnsmasq rejects its configuration" >&2
    exit 1
}
mv "$new/ruleset" "$new/resolver" "$new/forwarder" "$dir"
apply
"$code/check" "$id" || {
    echo "the policy is not in force although all commands succeeded" >&2
    exit 1
}
mkdir -p /etc/sudoers.d
install -m 0440 "$code/sudoers" /etc/sudoers.d/pixel.new
mv /etc/sudoers.d/pixel.new /etc/sudoers.d/pixel
trap - EXIT
rm -rf "$dir/old" "$new"
