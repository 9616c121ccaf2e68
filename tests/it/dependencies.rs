//! Licenses and sources of the dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

use crate::support::programs::output_of;
use crate::support::repository::{read, release_targets, root};

/// Licenses compatible with a binary that is distributed under MIT.
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

/// License of each crate, by name and version, for all targets of a release.
fn crates() -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    for target in release_targets() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["metadata", "--locked", "--format-version", "1"])
            .args(["--filter-platform", &target])
            .current_dir(root());
        let metadata: Value = serde_json::from_str(&output_of(&mut cargo)).unwrap();
        // Other platforms' crates are listed as packages but not resolved.
        let nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter();
        let used: BTreeSet<&str> = nodes.map(|node| node["id"].as_str().unwrap()).collect();
        for one in metadata["packages"].as_array().unwrap() {
            let text = |key: &str| one[key].as_str().unwrap();
            if used.contains(text("id")) {
                let license = one["license"].as_str().map(str::to_owned);
                found.insert(format!("{} {}", text("name"), text("version")), license);
            }
        }
    }
    assert!(found.len() > 100, "only {} crates", found.len());
    found
}

fn is_allowed(license: &str) -> bool {
    Expression::parse_mode(license, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|license| ALLOWED.contains(&license.to_string().as_str()))
    })
}

#[test]
fn licenses_of_dependencies_are_allowed() {
    // The parser accepts the license syntax of cargo.
    assert!(is_allowed("MIT/Apache-2.0") && is_allowed("GPL-3.0-only OR MIT"));
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception"));
    assert!(!is_allowed("MIT AND GPL-3.0-only") && !is_allowed("MIT ISC"));
    let wrong: Vec<String> = crates()
        .into_iter()
        .filter(|(_, license)| !license.as_deref().is_some_and(is_allowed))
        .map(|(name, license)| format!("{name}: {license:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All dependencies use one registry and have a checksum. In Cargo.lock, Git
/// repositories have another source, and path dependencies have no source.
#[test]
fn dependencies_come_from_one_registry() {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    assert_eq!(lock.keys().collect::<Vec<_>>(), ["package", "version"]);
    let mut sources = BTreeSet::new();
    for one in lock["package"].as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        assert!(one.get("replace").is_none(), "{name} is replaced");
        if name == "pixels" {
            continue;
        }
        let source = one.get("source").and_then(toml::Value::as_str);
        let source = source.unwrap_or_else(|| panic!("{name} is a path dependency"));
        assert!(source.starts_with("registry+"), "{name}: {source}");
        assert!(one.get("checksum").is_some(), "{name} has no checksum");
        sources.insert(source);
    }
    assert_eq!(sources.len(), 1, "{sources:?}");
}
