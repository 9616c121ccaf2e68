//! Allowed dependencies between the modules of the library.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::repository::{files, has_extension, read};

/// Every module and the modules that it uses. A missing edge and an unused edge
/// both fail the test.
const EDGES: &str = "
model ->
retry ->
secret ->
file_lock ->
user_dirs ->
config -> egress model secret user_dirs
plain ->
term -> model plain
ui -> model plain
provision -> egress model
egress -> model
transfer -> model
forward -> model
backend::sftp -> model
backend::tls -> model
backend::incus -> backend::sftp backend::tls file_lock retry model
backend::truenas -> backend::sftp backend::tls retry model secret
backend -> backend::incus backend::truenas config model secret term user_dirs
host -> backend::incus backend::tls file_lock model
lifecycle -> egress file_lock provision retry model
base -> config egress file_lock lifecycle provision retry model
mcp -> base egress file_lock lifecycle provision model secret
exit -> base config lifecycle model user_dirs
signal -> exit model term
cli -> backend base config egress exit forward host lifecycle mcp provision model signal term transfer ui user_dirs
";

/// These files may use every module.
const TOP: &[&str] = &["lib", "main", "build"];

#[test]
fn modules_use_only_allowed_modules() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let edges: BTreeMap<&str, Vec<&str>> = EDGES
        .lines()
        .filter_map(|line| line.split_once(" ->"))
        .map(|(part, allowed)| (part, allowed.split_whitespace().collect()))
        .collect();
    let sources = files("src");
    for file in sources.iter().filter(|it| has_extension(it, &["rs"])) {
        let inside = file.strip_prefix("src").unwrap();
        let part = part_of(inside);
        // Fuzz tests may use every module.
        let is_fuzz = part == "fuzz" || inside.ends_with("fuzz.rs");
        if is_fuzz || TOP.contains(&part.as_str()) {
            continue;
        }
        let Some(allowed) = edges.get(part.as_str()) else {
            wrong.push(format!("{}: no rule for {part:?}", inside.display()));
            continue;
        };
        let mut used = uses(&read(file), &part);
        used.remove(&part);
        for target in &used {
            if !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}: {part} uses {target}", inside.display()));
            }
        }
        found.entry(part).or_default().extend(used);
    }
    for (part, allowed) in edges {
        for target in allowed {
            if !found.get(part).is_some_and(|used| used.contains(target)) {
                wrong.push(format!("{part} no longer uses {target}: edit EDGES"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `cli/list.rs` belongs to module `cli`; every backend is a module of its own.
fn part_of(inside: &Path) -> String {
    let steps = inside.with_extension("");
    let steps = steps.to_str().unwrap();
    let steps = steps.strip_suffix("/mod").unwrap_or(steps);
    let mut steps = steps.split('/');
    match (steps.next().unwrap(), steps.next()) {
        ("backend", Some(second)) => format!("backend::{second}"),
        (first, _) => first.to_owned(),
    }
}

/// The modules that a file uses by `crate::` paths.
fn uses(text: &str, part: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap());
    let code = Vec::from_iter(code).join("\n");
    let mut found: BTreeSet<String> = code.split("crate::").skip(1).flat_map(heads).collect();
    // Within `backend`, its own submodules are named without `crate::`.
    for backend in ["incus", "truenas"] {
        if part == "backend" && code.contains(&format!("use {backend}::")) {
            found.insert(format!("backend::{backend}"));
        }
    }
    found
}

/// The modules in `a::b` or `{a, b::{c, d}}` at the start of `code`.
fn heads(code: &str) -> Vec<String> {
    let code = code.trim_start();
    if let Some(group) = code.strip_prefix('{') {
        let mut depth = nesting();
        let end = group.find(|c| depth(c) < 0).unwrap_or(group.len());
        let mut depth = nesting();
        let members = group[..end].split(|c| depth(c) == 0 && c == ',');
        let members = members.filter(|member| !member.trim().is_empty());
        return members.flat_map(heads).collect();
    }
    let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let (first, rest) = code.split_at(code.find(is_end).unwrap_or(code.len()));
    match rest.strip_prefix("::").map(heads) {
        Some(members) if first == "backend" => members
            .into_iter()
            .map(|second| match second.as_str() {
                // Only these submodules are modules of their own in `EDGES`.
                "incus" | "sftp" | "tls" | "truenas" => format!("backend::{second}"),
                _ => "backend".to_owned(),
            })
            .collect(),
        _ => vec![first.to_owned()],
    }
}

/// Returns a function that counts the open braces after each character.
fn nesting() -> impl FnMut(char) -> i32 {
    let mut depth = 0;
    move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth
    }
}

#[test]
fn use_paths_are_parsed_like_rustc() {
    let text = "use crate::model::{Error, Name};\nuse crate::{exit, backend::incus::Client};\n\
                // crate::cli\nfn a() -> crate::term::X { crate::backend::open() }\n";
    let expected = ["backend", "backend::incus", "exit", "model", "term"];
    assert_eq!(uses(text, "cli"), expected.map(str::to_owned).into());
}
