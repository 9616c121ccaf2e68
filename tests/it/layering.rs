//! The direction of dependencies: which part of the library may name which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::repository::{files, has_extension, read};

/// Every part and the parts it uses. An edge that is not in here fails, and so
/// does one that no longer exists.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("retry", &[]),
    ("secret", &[]),
    ("file_lock", &[]),
    ("user_dirs", &[]),
    ("config", &["egress", "model", "secret", "user_dirs"]),
    ("term", &["model"]),
    ("ui", &["model"]),
    ("provision", &["egress", "model"]),
    ("egress", &["model"]),
    ("transfer", &["model"]),
    ("forward", &["model"]),
    // What both backends do.
    ("backend::sftp", &["model"]),
    ("backend::tls", &["model"]),
    (
        "backend::incus",
        &[
            "backend::sftp",
            "backend::tls",
            "file_lock",
            "retry",
            "model",
        ],
    ),
    (
        "backend::truenas",
        &["backend::sftp", "backend::tls", "retry", "model", "secret"],
    ),
    (
        "backend",
        &[
            "backend::incus",
            "backend::truenas",
            "config",
            "model",
            "secret",
            "term",
            "user_dirs",
        ],
    ),
    (
        "host",
        &["backend::incus", "backend::tls", "file_lock", "model"],
    ),
    ("lifecycle", &["egress", "provision", "retry", "model"]),
    (
        "base",
        &[
            "config",
            "egress",
            "file_lock",
            "lifecycle",
            "provision",
            "retry",
            "model",
        ],
    ),
    (
        "mcp",
        &[
            "base",
            "egress",
            "file_lock",
            "lifecycle",
            "provision",
            "model",
            "secret",
        ],
    ),
    (
        "exit",
        &["base", "config", "lifecycle", "model", "user_dirs"],
    ),
    ("signal", &["exit", "model", "term"]),
    (
        "cli",
        &[
            "backend",
            "base",
            "config",
            "egress",
            "exit",
            "forward",
            "host",
            "lifecycle",
            "mcp",
            "provision",
            "model",
            "signal",
            "term",
            "transfer",
            "ui",
            "user_dirs",
        ],
    ),
];

/// These join everything together.
const TOP: &[&str] = &["lib", "main", "build"];

#[test]
fn modules_use_only_allowed_modules() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for file in files("src")
        .iter()
        .filter(|file| has_extension(file, &["rs"]))
    {
        let inside = file.strip_prefix("src").unwrap();
        let part = part_of(inside);
        // Fuzz tests may use every module.
        let is_fuzz = part == "fuzz" || inside.ends_with("fuzz.rs");
        if is_fuzz || TOP.contains(&part.as_str()) {
            continue;
        }
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("{}: no rule for {part:?}", inside.display()));
            continue;
        };
        let used = found.entry(part.clone()).or_default();
        for target in uses(&read(file), &part) {
            if target == part {
                continue;
            }
            if !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}: {part} uses {target}", inside.display()));
            }
            used.insert(target);
        }
    }
    for (part, allowed) in EDGES {
        for target in *allowed {
            if !found.get(*part).is_some_and(|used| used.contains(*target)) {
                wrong.push(format!("{part} no longer uses {target}: take it out"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `cli/list.rs` is part of `cli`; every backend is a part of its own.
fn part_of(inside: &Path) -> String {
    let mut steps = inside
        .with_extension("")
        .into_os_string()
        .into_string()
        .unwrap();
    if let Some(module) = steps.strip_suffix("/mod") {
        steps = module.to_owned();
    }
    let mut steps = steps.split('/');
    let first = steps.next().unwrap();
    match steps.next() {
        Some(second) if first == "backend" => format!("backend::{second}"),
        _ => first.to_owned(),
    }
}

/// The parts that a file names by `crate::` paths or by `super::` ones that
/// leave the part.
fn uses(text: &str, part: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        for path in heads(&code[at + "crate::".len()..]) {
            found.insert(path);
        }
    }
    // Within `backend`, its own submodules are named without `crate::`.
    for backend in ["incus", "truenas"] {
        if part == "backend" && code.contains(&format!("use {backend}::")) {
            found.insert(format!("backend::{backend}"));
        }
    }
    found
}

/// `a::b` or `{a, b::{c, d}}` at the beginning of `code`, as parts.
fn heads(code: &str) -> Vec<String> {
    let code = code.trim_start();
    if let Some(group) = code.strip_prefix('{') {
        let mut depth = 1;
        let mut members = vec![String::new()];
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if c == ',' && depth == 1 {
                members.push(String::new());
            } else {
                members.last_mut().unwrap().push(c);
            }
        }
        return members
            .iter()
            .filter(|member| !member.trim().is_empty())
            .flat_map(|member| heads(member))
            .collect();
    }
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let first = word(code);
    let Some(rest) = code[first.len()..].strip_prefix("::") else {
        return vec![first];
    };
    if first != "backend" {
        return vec![first];
    }
    heads(rest)
        .into_iter()
        .map(|second| match second.as_str() {
            // The crate's backends are modules; what else `backend` has is its own.
            "incus" | "sftp" | "tls" | "truenas" => format!("backend::{second}"),
            _ => "backend".to_owned(),
        })
        .collect()
}

#[test]
fn use_paths_are_parsed_like_rustc() {
    let text = "use crate::model::{Error, Name};\nuse crate::{exit, backend::incus::Client};\n\
                // crate::cli\nfn a() -> crate::term::X { crate::backend::open() }\n";
    let expected = ["backend", "backend::incus", "exit", "model", "term"];
    assert_eq!(uses(text, "cli"), expected.map(str::to_owned).into());
}
