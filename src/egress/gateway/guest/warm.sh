#!/bin/bash
# Asks the resolver of the policy $1 for every host that the policy names, so
# that their addresses are known before a pixel goes on using an answer that it
# got elsewhere. Nobody waits for the answers: the resolver keeps them.
set -eu
conf=/var/lib/pixels/gateway/state/resolvers/$1
port=$(sed -n 's/^port=//p' "$conf")
address=$(sed -n 's/^listen-address=//p' "$conf")
sed -n 's|^server=/\([^*/][^/]*\)/.*|\1|p' "$conf" | sort -u | while read -r name; do
    question='\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00'
    IFS=.
    for label in $name; do
        printf -v length '\\x%02x' "${#label}"
        question+=$length$label
    done
    unset IFS
    printf '%b' "$question\x00\x00\x01\x00\x01" >"/dev/udp/$address/$port"
done
