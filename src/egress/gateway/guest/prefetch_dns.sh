#!/bin/bash
# Sends the resolver of the policy $1 a query for each host of the policy, so
# that their addresses are learned before a pixel uses an answer that it cached
# earlier. Waits for all answers together for at most 0.1 s; later answers are
# learned too.
set -u
port='' address=''
declare -A names=()
while IFS= read -r line; do
    case $line in
        port=*) port=${line#*=} ;;
        listen-address=*) address=${line#*=} ;;
        server=/[!*/]*/*)
            name=${line#*/}
            names[${name%%/*}]=
            ;;
    esac
done <"/var/lib/pixels/gateway/state/resolvers/$1"
open=()
for name in "${!names[@]}"; do
    question='\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00'
    IFS=.
    for label in $name; do
        printf -v length '\\x%02x' "${#label}"
        question+=$length$label
    done
    unset IFS
    exec {fd}<>"/dev/udp/$address/$port" || continue
    printf '%b' "$question\x00\x00\x01\x00\x01" >&"$fd"
    open+=("$fd")
done
end=$((${EPOCHREALTIME/[.,]/} + 100000))
for fd in "${open[@]}"; do
    left=$((end - ${EPOCHREALTIME/[.,]/}))
    [ "$left" -gt 0 ] || break
    printf -v left '0.%06d' "$left"
    read -r -N 2 -t "$left" -u "$fd" _
done
exit 0
