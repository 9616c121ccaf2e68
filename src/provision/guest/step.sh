#!/bin/sh
# Runs one step and records its result in /var/lib/pixels/steps/NAME as lines
# key=value, which survive restarts and are part of checkpoints.
# usage: step.sh NAME
set -u
name=$1
record=/var/lib/pixels/steps/$name
log=/var/log/pixels/$name.log
hash=$(awk -v name="$name" '$1 == name { print $2 }' /etc/pixels/steps)
started=$(date +%s)

write() {
    {
        echo "hash=$hash"
        echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
        echo "started=$started"
        printf '%s\n' "$@"
    } >"$record.new"
    mv "$record.new" "$record"
}

mkdir -p /var/lib/pixels/steps /var/log/pixels
write state=running
# The variables of the settings apply to the steps too.
# shellcheck source=/dev/null
[ ! -r /etc/profile.d/pixels-env.sh ] || . /etc/profile.d/pixels-env.sh
# The steps run as root: prefer system programs to those in folders of the user,
# and do not create temporary files in a folder of the user.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
unset TMPDIR
trap 'write state=failed exit_code=143 "ended=$(date +%s)"; exit 143' TERM
"/usr/local/lib/pixels/steps/$name" >"$log" 2>&1 </dev/null &
wait $!
code=$?
if [ "$code" = 0 ]; then state='done'; else state='failed'; fi
write "state=$state" "exit_code=$code" "ended=$(date +%s)"
exit "$code"
