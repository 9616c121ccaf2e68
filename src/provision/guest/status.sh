#!/bin/sh
# Prints the state of all steps as lines key=value, one block for each step, which
# begins with step= and ends with the last line of its output.
[ -r /etc/pixels/steps ] || exit 0
boot=$(cat /proc/sys/kernel/random/boot_id)
echo "now=$(date +%s)"
echo "boot=$boot"
while read -r name hash; do
    [ -n "$name" ] || continue
    echo "step=$name"
    echo "wanted=$hash"
    cat "/var/lib/pixels/steps/$name" 2>/dev/null
    echo "unit=$(systemctl is-active "pixels-$name.service" 2>/dev/null)"
    last=$(tail -c 4096 "/var/log/pixels/$name.log" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-200)
    echo "last=$last"
done </etc/pixels/steps
echo "system=$(systemctl is-system-running 2>/dev/null)"
if [ -n "$(find /run/pixels/requested -mmin -1 2>/dev/null)" ]; then
    # The run was requested and has not started yet.
    echo "runner=activating"
else
    echo "runner=$(systemctl is-active pixels-provision.service 2>/dev/null)"
fi
