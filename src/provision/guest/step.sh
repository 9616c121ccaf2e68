#!/bin/sh
# Runs one step and keeps a record of how it went, where it survives restarts
# and travels with checkpoints: /var/lib/pixels/steps/NAME, one key=value a line.
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
# What the user set for every process of the pixel holds here too.
# shellcheck source=/dev/null
[ ! -r /etc/profile.d/pixels-env.sh ] || . /etc/profile.d/pixels-env.sh
trap 'write state=failed exit_code=143 "ended=$(date +%s)"; exit 143' TERM
"/usr/local/lib/pixels/steps/$name" >"$log" 2>&1 </dev/null &
wait $!
code=$?
if [ "$code" = 0 ]; then state='done'; else state='failed'; fi
write "state=$state" "exit_code=$code" "ended=$(date +%s)"
exit "$code"
