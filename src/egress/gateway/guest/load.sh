#!/bin/sh
# Updates the packet filter to the state in the directory $1: its files `base`,
# `chains` (parts after lines "# part NAME", sorted; the name identifies the
# content) and `elements` (sorted). Parts that are already loaded are not touched.
# After an interruption or a failure, the loaded rules remain in force, and the
# next run loads everything.
# Runs the command $2 after it has added the new sets, and before any element refers
# to the new chains.
set -eu
export LC_ALL=C
want=$1
before_elements=${2-}
have=/run/pixels/loaded
# Not in /tmp: the boot may empty it while this runs.
work=$(mktemp -d -p /run/pixels)
trap 'rm -rf "$work"' EXIT

if [ ! -e "$have/whole" ]; then
    rm -rf "$have"
    mkdir -p "$have"
    : >"$have/elements"
    : >"$have/parts"
    : >"$have/names"
    {
        echo "add table inet pixels"
        echo "delete table inet pixels"
        echo "add table arp pixels"
        echo "delete table arp pixels"
        cat "$want/base"
    } >"$work/base"
    nft -f "$work/base"
elif cmp -s "$want/base" "$have/base"; then
    rm "$have/whole"
else
    rm "$have/whole"
    nft -f "$want/base"
fi

nft list set inet pixels provisioning >"$work/leases"
learned=
# After a boot: add the addresses learned before it, for the sets that exist.
if [ ! -s "$have/elements" ] && [ -e /var/lib/pixels/gateway/learned ]; then
    learned=/var/lib/pixels/gateway/learned
fi
# Writes the commands for nft to files sets.N, learned.N, chains.N and change.N, in
# the order of N. The kernel accepts 212992 bytes per transaction. A word of a rule
# takes up to 45 bytes, a word of an element fewer.
awk -v work="$work" -v now="$(date +%s)" '
    function command(kind, text,   words) {
        words = split(text, field)
        if (!(kind in files) || used[kind] + words > 4000) {
            if (kind in files) close(file[kind])
            file[kind] = sprintf("%s/%s.%06d", work, kind, ++files[kind])
            used[kind] = 0
        }
        used[kind] += words
        print text >file[kind]
    }
    # A pixel whose address or policy changes loses its provisioning lease.
    function end_leases(text) {
        while (match(text, /([0-9]+\.)+[0-9]+/)) {
            address = substr(text, RSTART, RLENGTH)
            text = substr(text, RSTART + RLENGTH)
            if (address in leased) {
                print address >(work "/ended")
                delete leased[address]
            }
        }
    }
    FNR == 1 { input = FILENAME; sub(/.*\//, "", input); is_old = FILENAME ~ /loaded\/[a-z]+$/ }
    input == "leases" {
        while (match($0, /([0-9]+\.)+[0-9]+/)) {
            leased[substr($0, RSTART, RLENGTH)]
            $0 = substr($0, RSTART + RLENGTH)
        }
        next
    }
    input == "parts" { old_part[$1]; next }
    input == "names" { old_names[++old_name_count] = $0; old_name[$0]; next }
    input == "chains" && /^# part / {
        print $3 >(work "/parts")
        is_new = !($3 in old_part)
        next
    }
    input == "chains" {
        # The type and name of every set and chain.
        if (/^add (chain|set) inet pixels [a-z]_[0-9a-z_]+/) {
            name = $2 " " $5
            sub(/[^0-9a-z_ ].*/, "", name)
            if (!(name in names)) print name >(work "/names")
            names[name]
        }
        if (!is_new) next
        # The name of a set with elements identifies its content. To add an element,
        # nft reads all sets from the kernel.
        if (/^add element/ && ("set " $5) in old_name) next
        # No element refers to a new chain yet.
        command(/^add (set|element)/ ? "sets" : "chains", $0)
        next
    }
    # The time since they were saved counts.
    input == "learned" {
        if (("set " $1) in names && $3 ~ /^[0-9]+$/ && $3 > now)
            command("learned", "add element inet pixels " $1 " { " $2 " timeout 61m expires " ($3 - now) "s }")
        next
    }
    is_old { old_elements[++old_count] = $0; old_element[$0]; next }
    { new_elements[++new_count] = $0; new_element[$0] }
    END {
        # Deletions first: during a change of its policy, a pixel is denied for a
        # moment, never allowed too much.
        for (i = 1; i <= old_count; i++) {
            if (old_elements[i] in new_element) continue
            end_leases(old_elements[i])
            command("change", "delete " old_elements[i])
        }
        for (i = 1; i <= new_count; i++) {
            if (new_elements[i] in old_element) continue
            end_leases(new_elements[i])
            command("change", "add " new_elements[i])
        }
        # Chains may refer to sets, so delete chains first.
        for (type = 1; type <= 2; type++)
            for (i = 1; i <= old_name_count; i++) {
                split(old_names[i], field)
                if (!(old_names[i] in names) && (field[1] == "chain") == (type == 1))
                    command("change", "delete " field[1] " inet pixels " field[2])
            }
    }
' "$work/leases" "$have/parts" "$have/names" "$want/chains" ${learned:+"$learned"} \
    "$have/elements" "$want/elements"

run_nft() {
    for part in "$work/$1".*; do
        [ ! -e "$part" ] || nft -f "$part" || return
    done
}
run_nft sets
run_nft learned || :
before=
if [ -n "$before_elements" ]; then
    sh -c "$before_elements" &
    before=$!
fi
run_nft chains
[ -z "$before" ] || wait "$before"
if [ -e "$work/ended" ]; then
    while read -r address; do
        # The lease may have ended.
        nft delete element inet pixels provisioning "{ $address }" 2>/dev/null || :
    done <"$work/ended"
fi
run_nft change

: >>"$work/parts"
: >>"$work/names"
cp "$want/base" "$want/elements" "$work/parts" "$work/names" "$have/"
: >"$have/whole"
