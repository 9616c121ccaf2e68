//! Licenses and sources of the dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Licenses that permit to ship the binary under MIT.
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

/// License of each crate, by name and version, for all targets of a release.
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
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{target}: {stderr}");
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        // Crates that this target does not use are not resolved.
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

fn is_allowed(license: &str) -> bool {
    Expression::parse_mode(license, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|license| ALLOWED.contains(&license.to_string().as_str()))
    })
}

#[test]
fn licenses_of_dependencies_are_allowed() {
    // The parser accepts what cargo accepts, and the list decides.
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

/// Every dependency comes from one registry with a checksum. Git repositories,
/// paths and replacements are not allowed.
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
        let source = source.unwrap_or_else(|| panic!("{name} is a path dependency"));
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
        for (name, dependency) in table {
            for elsewhere in ["git", "path", "registry"] {
                assert!(dependency.get(elsewhere).is_none(), "{name}: {elsewhere}");
            }
        }
    }
}
