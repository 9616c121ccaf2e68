#!/bin/sh
# Activates the files of a plan, which were just written, and starts its steps.
set -eu

[ ! -d /root/.ssh ] || chmod 0700 /root/.ssh
# As the user, because root must not follow a link of the user.
[ ! -d /home/pixel/.ssh ] || runuser -u pixel -- chmod 0700 /home/pixel/.ssh

# Replace the lines of pixels in /etc/environment; keep those of the image.
touch /etc/environment
sed -i '/^# pixels begin$/,/^# pixels end$/d' /etc/environment
if [ -s /etc/pixels/environment ]; then
    {
        echo "# pixels begin"
        cat /etc/pixels/environment
        echo "# pixels end"
    } >>/etc/environment
fi

# Right after the start, systemd may not answer yet. Wait at most 10 s.
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
# Failed steps run again, so remove their results.
grep -lsx 'state=failed' /var/lib/pixels/steps/* | xargs -r rm -f
mkdir -p /run/pixels
touch /run/pixels/requested
systemctl restart --no-block pixels-provision.service
