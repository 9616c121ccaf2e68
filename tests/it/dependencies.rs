//! What pixels is built from: under which licences, and where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that let everybody ship a binary under MIT.
const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Crates by name and version, with the licence they state, for everything
/// that a release is built for.
fn crates() -> BTreeMap<String, Option<String>> {
    let workflow = std::fs::read_to_string(root().join(".github/workflows/release.yml")).unwrap();
    let mut found = BTreeMap::new();
    for target in workflow
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- target: "))
    {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--locked", "--format-version", "1"])
            .args(["--filter-platform", target])
            .current_dir(root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{target}: {said}");
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        // Without those that this target has no use for.
        let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["id"].as_str().unwrap())
            .collect();
        for one in metadata["packages"].as_array().unwrap() {
            if used.contains(one["id"].as_str().unwrap()) {
                let name = format!(
                    "{} {}",
                    one["name"].as_str().unwrap(),
                    one["version"].as_str().unwrap()
                );
                found.insert(name, one["license"].as_str().map(str::to_owned));
            }
        }
    }
    assert!(found.len() > 100, "only {} crates", found.len());
    found
}

/// Whether one of the ways in which an expression lets itself be read has
/// only allowed licences. `AND` binds more tightly than `OR`.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let tokens = expression.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = tokens.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest) && rest.is_empty()
}

fn either(rest: &mut &[&str]) -> bool {
    let mut any = both(rest);
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        any |= both(rest);
    }
    any
}

fn both(rest: &mut &[&str]) -> bool {
    let mut all = one(rest);
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        all &= one(rest);
    }
    all
}

fn one(rest: &mut &[&str]) -> bool {
    match *rest {
        ["(", inside @ ..] => {
            *rest = inside;
            let good = either(rest);
            if rest.first() != Some(&")") {
                return false;
            }
            *rest = &rest[1..];
            good
        }
        [name, "WITH", exception, after @ ..] => {
            *rest = after;
            ALLOWED.contains(&format!("{name} WITH {exception}").as_str())
        }
        [name, after @ ..] => {
            *rest = after;
            ALLOWED.contains(name)
        }
        [] => false,
    }
}

#[test]
fn licenses_of_dependencies_are_allowed() {
    let wrong: Vec<String> = crates()
        .into_iter()
        .filter(|(_, licence)| !licence.as_deref().is_some_and(allowed))
        .map(|(name, licence)| format!("{name}: {licence:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn license_expressions_are_evaluated() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "MIT OR GPL-3.0-only AND ISC",
        "(MIT OR GPL-2.0-only) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR ISC) AND MPL-2.0",
        "(MIT",
        "MIT ISC",
        "Apache-2.0 WITH other-exception",
        "AND MIT",
    ] {
        assert!(!allowed(bad), "{bad}");
    }
}

/// All from one registry, each with its checksum: no other place, no branch of
/// a repository, no folder, nothing replaced.
#[test]
fn dependencies_come_from_one_registry() {
    let read = |file: &str| -> toml::Table {
        toml::from_str(&std::fs::read_to_string(root().join(file)).unwrap()).unwrap()
    };
    let lock = read("Cargo.lock");
    let mut sources = BTreeSet::new();
    for one in lock["package"].as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        if name == "pixels" {
            continue;
        }
        let source = one.get("source").and_then(toml::Value::as_str);
        let source = source.unwrap_or_else(|| panic!("{name} is a folder"));
        assert!(source.starts_with("registry+"), "{name}: {source}");
        assert!(one.get("checksum").is_some(), "{name} has no checksum");
        sources.insert(source);
    }
    assert_eq!(sources.len(), 1, "{sources:?}");

    let manifest = read("Cargo.toml");
    for replaced in ["patch", "replace"] {
        assert!(!manifest.contains_key(replaced), "Cargo.toml: {replaced}");
    }
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(table) = manifest.get(table).and_then(toml::Value::as_table) else {
            continue;
        };
        for (name, wish) in table {
            for elsewhere in ["git", "path", "registry"] {
                assert!(wish.get(elsewhere).is_none(), "{name}: {elsewhere}");
            }
        }
    }
}
