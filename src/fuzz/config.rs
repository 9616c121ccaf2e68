//! Fuzz tests of the settings file and of environment variables.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::fuzz;
use crate::config::{Flags, KEYS, Settings};

/// TOML fragments, used together with the key names.
const PIECES: &[&str] = &[
    "[mcp.bases.a]\n",
    "[env]\n",
    "allow = [",
    "egress = \"agent\"",
    "subnet = \"10.98.0.0/16\"",
    "= ",
    "\"",
    "'''",
    "#",
    "{ ",
    " }",
    "[[",
    "]]",
    "true",
    "1979-05-27T07:32:00Z",
    "${HOME}",
    "{{",
    "~/",
];

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let home = |name: &str| (name == "HOME").then(|| OsString::from("/nowhere/ann"));
    let names = KEYS.iter().map(|key| key.name);
    let words: Vec<&str> = names.chain(PIECES.iter().copied()).collect();
    fuzz("config-file", 150, &words, |bytes| {
        std::fs::write(&file, bytes).unwrap();
        match Settings::load(Some(&file), &home, &Flags::default()) {
            Ok(loaded) => loaded.warnings.len(),
            Err(error) => usize::MAX - error.to_string().len(),
        }
    });
}

#[test]
fn variables() {
    let names: Vec<&str> = KEYS.iter().filter_map(|key| key.variable).collect();
    let words = [
        "true",
        "10.98.0.0/16",
        "2h",
        "4GiB",
        "agent",
        "a,b",
        "~/x",
        "https://",
    ];
    fuzz("config-env", 200, &words, |bytes| {
        // The first byte selects the variable, and the rest is the value.
        let (first, value) = bytes.split_first().unwrap_or((&0, b""));
        let chosen = names[usize::from(*first) % names.len()];
        let env = |name: &str| match name {
            "HOME" => Some(OsString::from("/nowhere/ann")),
            name if name == chosen => Some(OsString::from_vec(value.to_vec())),
            _ => None,
        };
        // The home directory does not exist, so no settings file is read.
        match Settings::load(None, &env, &Flags::default()) {
            Ok(loaded) => (chosen, loaded.warnings.len()),
            Err(error) => (chosen, usize::MAX - error.to_string().len()),
        }
    });
}
