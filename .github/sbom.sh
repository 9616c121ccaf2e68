#!/bin/bash
# Prints the bill of materials of the released binaries, CycloneDX 1.5 as JSON:
# every crate that is compiled into one of them or runs while it is compiled.
# What only the tests use is not among them.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
moment=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

while read -r target; do
    cargo metadata --locked --format-version 1 --filter-platform "$target" >"$work/$target.json"
done < <(sed -n 's/^ *- target: *//p' .github/workflows/release.yml)

jq --slurp --argjson moment "$moment" '
    # What is reached from a package without edges that are for tests alone.
    def reached($edges): def go($found; $next):
            if ($next | length) == 0 then $found
            else ($next | map($edges[.][]) | unique) as $seen
                | go($found + $next | unique; $seen - ($found + $next)) end;
        go([]; .);

    # A plus sign would be read as a space.
    def purl: "pkg:cargo/\(.name)@\(.version | gsub("[+]"; "%2B"))";

    map(. as $of
        | (.resolve.nodes | map({key: .id, value: [.deps[]
            | select(any(.dep_kinds[]; .kind != "dev")) | .pkg]}) | from_entries) as $edges
        | {root: .resolve.root, edges: $edges, packages: .packages,
            found: ([.resolve.root] | reached($edges))})
    | .[0].root as $root
    | (map(.packages[]) | unique_by(.id) | map({key: .id, value: .}) | from_entries) as $packages
    | (map(.found) | add | unique) as $found
    | (reduce .[].edges as $edges ({}; reduce ($edges | to_entries[]) as $one
        (.; .[$one.key] = ((.[$one.key] // []) + $one.value | unique)))) as $edges
    | $packages[$root] as $main
    | {
        bomFormat: "CycloneDX",
        specVersion: "1.5",
        version: 1,
        metadata: {
            timestamp: ($moment | todate),
            component: {
                type: "application",
                "bom-ref": ($main | purl),
                name: $main.name,
                version: $main.version,
                licenses: [{expression: $main.license}],
                purl: ($main | purl)
            }
        },
        components: [$found[] | select(. != $root) | $packages[.] | {
            type: "library",
            "bom-ref": purl,
            name: .name,
            version: .version,
            licenses: (if .license then [{expression: (.license | gsub(" */ *"; " OR "))}] else [] end),
            purl: purl
        }],
        dependencies: [$found[] | {
            ref: ($packages[.] | purl),
            dependsOn: [$edges[.][] | $packages[.] | purl] | unique
        }]
    }' "$work"/*.json
