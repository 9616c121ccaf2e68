#!/bin/sh
# Builds a system container image from the packages of a distribution. Writes
# the two parts that Incus imports: OUT/metadata.tar.xz and OUT/rootfs.squashfs.
#
# Works in a private directory below --work, and deletes it on exit and on
# SIGHUP, SIGINT and SIGTERM. Needs root, debootstrap, mksquashfs, unshare, xz.
set -eu
# Root's umask must not apply to the directories of the image.
umask 022

fail() {
	echo "build-image: $*" >&2
	exit 1
}

work='' out='' suite='' mirror='' components=main keyring='' sources=''
arch='' os='' release='' description=''
while [ $# -gt 0 ]; do
	[ $# -ge 2 ] || fail "$1 needs a value"
	case $1 in
	--work) work=$2 ;;               # directory for the build
	--out) out=$2 ;;                 # existing directory for the two files
	--suite) suite=$2 ;;             # such as bookworm
	--mirror) mirror=$2 ;;           # URL that debootstrap installs from
	--components) components=$2 ;;   # comma-separated
	--keyring) keyring=$2 ;;         # optional: signing keys of the mirror
	--sources) sources=$2 ;;         # file: the image's apt sources (deb822)
	--arch) arch=$2 ;;               # as printed by uname -m
	--os) os=$2 ;;                   # such as Debian
	--release) release=$2 ;;         # such as bookworm
	--description) description=$2 ;; # description of the image
	*) fail "unknown option $1" ;;
	esac
	shift 2
done
for value in "$work" "$out" "$suite" "$mirror" "$sources" "$arch" "$os" "$release" "$description"; do
	[ -n "$value" ] || fail "--work, --out, --suite, --mirror, --sources, --arch, --os, --release and --description are required"
done
[ -d "$out" ] || fail "$out is not a directory"
[ "$(id -u)" -eq 0 ] || fail "needs root"
for tool in debootstrap mksquashfs xz unshare; do
	command -v "$tool" >/dev/null || fail "needs $tool"
done

dir=$(mktemp -d "$work/pixels-image.XXXXXXXX")
# shellcheck disable=SC2317,SC2329 # called by the traps
clean() {
	trap '' HUP INT TERM
	rm -rf --one-file-system -- "$dir"
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

root=$dir/root
packages=systemd-sysv,udev,systemd-resolved,libnss-resolve,iproute2,iputils-ping,sudo,ca-certificates,procps,dbus,nftables,dnsmasq-base

echo "installing packages of $suite"
set -- --variant=minbase --include="$packages" --components="$components"
[ -z "$keyring" ] || set -- "$@" --keyring="$keyring"
# Use separate namespaces, so that mounts of debootstrap and processes started
# by packages end with debootstrap.
unshare --mount --propagation private --pid --fork --kill-child \
	debootstrap "$@" "$suite" "$root" "$mirror"

echo "configuring"
cat >"$root/etc/systemd/network/10-eth0.network" <<'NETWORK'
[Match]
Name=eth0

[Network]
DHCP=ipv4

[DHCPv4]
# Clones share a machine-id until the first boot, so the address follows the NIC.
ClientIdentifier=mac
# The name is written below. Without this, every boot starts systemd-hostnamed.
UseHostname=no
NETWORK
chroot "$root" systemctl enable systemd-networkd.service systemd-resolved.service
# A container has neither ext4 volumes nor kernel modules of its own, and none of the
# kernel parameters, file systems, disks and offline updates of a machine.
chroot "$root" systemctl mask e2scrub_all.timer e2scrub_reap.service \
	modprobe@.service systemd-modules-load.service systemd-network-generator.service \
	systemd-update-utmp-runlevel.service
rm -f "$root/etc/fstab"
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup debug gpt-auto hibernate-resume integritysetup run \
	system-update veritysetup; do
	ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
# D-Bus starts it when a program needs it.
rm -f "$root/usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service"
# Only network interfaces are the container's own devices.
mkdir "$root/etc/systemd/system/systemd-udev-trigger.service.d"
cat >"$root/etc/systemd/system/systemd-udev-trigger.service.d/net.conf" <<'TRIGGER'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=net
TRIGGER
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash ubuntu

rm -f "$root/etc/apt/sources.list"
cp "$sources" "$root/etc/apt/sources.list.d/image.sources"
if [ -n "$keyring" ] && [ ! -e "$root$keyring" ]; then
	mkdir -p "$root$(dirname "$keyring")"
	cp "$keyring" "$root$keyring"
fi
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"

# Remove identity and files of the build host. The image has no templates, which
# Incus would write into the disks of clones: pixels sets the hostname.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_*
rm -f "$root/var/lib/systemd/random-seed" "$root/etc/hostname"
cat >"$root/etc/hosts" <<'HOSTS'
127.0.0.1	localhost

::1		localhost ip6-localhost ip6-loopback
ff02::1		ip6-allnodes
ff02::2		ip6-allrouters
HOSTS
rm -f "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old
find "$root/var/log" -type f -delete
# Unprivileged containers cannot have device nodes. Incus provides /dev.
for empty in dev run tmp var/tmp; do
	find "$root/$empty" -mindepth 1 -delete
done

echo "packing"
meta=$dir/meta
mkdir "$meta"
now=$(date +%s)
serial=$(date -u +%Y%m%d_%H:%M)
cat >"$meta/metadata.yaml" <<YAML
architecture: "$arch"
creation_date: $now
properties:
  architecture: "$arch"
  description: "$description"
  os: "$os"
  release: "$release"
  serial: "$serial"
YAML
tar -C "$meta" --owner=0 --group=0 -cJf "$dir/metadata.tar.xz" metadata.yaml
mksquashfs "$root" "$dir/rootfs.squashfs" -comp zstd -Xcompression-level 6 -noappend -no-progress -quiet
mv "$dir/metadata.tar.xz" "$dir/rootfs.squashfs" "$out/"
echo "built $out/metadata.tar.xz and $out/rootfs.squashfs"
