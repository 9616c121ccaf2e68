#!/bin/sh
# Takes over the files that were just written, and starts the steps.
set -eu

for dir in /home/pixel/.ssh /home/pixel/.config /root/.ssh; do
    [ -d "$dir" ] || continue
    case $dir in
    /root/*) ;;
    *) chown -R pixel:pixel "$dir" ;;
    esac
    case $dir in
    *.ssh) chmod 0700 "$dir" ;;
    esac
done

# Our lines of /etc/environment; the image's own stay.
touch /etc/environment
sed -i '/^# pixels begin$/,/^# pixels end$/d' /etc/environment
if [ -s /etc/pixels/environment ]; then
    {
        echo "# pixels begin"
        cat /etc/pixels/environment
        echo "# pixels end"
    } >>/etc/environment
fi

# Just after the start, systemd may not take requests yet.
tries=0
until systemctl daemon-reload 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || {
        echo "systemd does not answer" >&2
        exit 1
    }
    sleep 0.05
done
systemctl try-restart systemd-resolved.service 2>/dev/null || true
systemctl enable --quiet pixels-provision.service
# What failed is to be tried again, and is no answer any more.
grep -lsx 'state=failed' /var/lib/pixels/steps/* | xargs -r rm -f
mkdir -p /run/pixels
touch /run/pixels/requested
systemctl restart --no-block pixels-provision.service
