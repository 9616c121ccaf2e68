//! What README promises exists. That its examples work is tried in `readme.rs`.

use std::path::Path;

use pixels::config::keys::KEYS;

use crate::support::env::TestEnv;
use crate::support::tree;

fn document(name: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).ok()
}

/// Variables that are no settings.
const OTHER_VARIABLES: &[&str] = &["PIXELS_LOG", "PIXELS_COMMIT"];

#[test]
fn every_variable_in_the_documents_exists() {
    for name in ["README.md", "SECURITY.md", "config.example.toml"] {
        let Some(text) = document(name) else { continue };
        for (at, _) in text.match_indices("PIXELS_") {
            let variable: String = text[at..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                .collect();
            // `PIXELS_*` stands for all of them.
            let known = variable == "PIXELS_"
                || OTHER_VARIABLES.contains(&variable.as_str())
                || KEYS.iter().any(|key| key.variable == Some(&variable));
            assert!(known, "{name}: no variable {variable}");
        }
    }
}

#[test]
fn every_command_in_the_readme_parses() {
    let env = TestEnv::bare();
    for name in ["README.md", "SECURITY.md"] {
        let Some(text) = document(name) else { continue };
        for line in commands(&text) {
            let words = words(&line).unwrap_or_else(|why| panic!("{name}: {line}: {why}"));
            let mut args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            args.push("--help");
            let outcome = env.pixels(&args);
            assert_eq!(outcome.code, 0, "{name}: {line}\n{}", outcome.stderr);
            // The flags themselves are not looked at when help is asked for.
            for flag in args.iter().filter(|word| word.starts_with('-')) {
                let flag = flag.split('=').next().unwrap();
                let known = outcome
                    .stdout
                    .split([' ', ',', '\n', '.', '['])
                    .any(|w| w == flag);
                assert!(known, "{name}: {line}: no flag {flag}");
            }
        }
    }
}

/// These do nothing without a command below them.
const GROUPS: &[&str] = &[
    "pixels",
    "pixels base",
    "pixels checkpoint",
    "pixels config",
    "pixels network",
    "pixels network gateway",
];

#[test]
fn every_command_has_an_example_in_the_readme() {
    let shown: Vec<Vec<String>> = commands(&document("README.md").unwrap())
        .iter()
        .map(|line| words(line).unwrap())
        .collect();
    for command in tree::commands() {
        if GROUPS.contains(&command.as_str()) {
            continue;
        }
        let typed: Vec<&str> = command.split(' ').collect();
        let found = shown.iter().any(|line| {
            line.iter()
                .map(String::as_str)
                .take(typed.len())
                .eq(typed.iter().copied())
        });
        assert!(found, "README has no example of {command}");
    }
}

#[test]
fn the_readme_has_all_rows_of_the_benchmark() {
    let readme = document("README.md").unwrap();
    let table = readme.split("<!-- bench -->").nth(1).unwrap();
    let table = table.split("<!-- /bench -->").next().unwrap();
    let rows = document("tests/bench/rows.rs").unwrap();
    let names: Vec<&str> = rows
        .lines()
        .filter_map(|line| line.trim().strip_prefix("name: \"")?.split('"').next())
        .collect();
    assert!(names.contains(&"exec"), "{names:?}");
    for name in &names {
        assert!(table.contains(&format!("| `{name}` |")), "no row {name}");
    }
    assert_eq!(
        table.matches("\n| `").count(),
        names.len(),
        "rows that are not measured"
    );
}

#[test]
fn the_picture_is_of_the_session() {
    assert!(
        document("README.md")
            .unwrap()
            .contains("(tests/picture/quickstart.svg)")
    );
    let picture = document("tests/picture/quickstart.svg").unwrap();
    let escaped = |line: &str| {
        line.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    for command in document("tests/picture/session.txt").unwrap().lines() {
        let command = escaped(command);
        assert!(
            picture.contains(&format!("</tspan> {command}</text>")),
            "{command} is not in the picture: record it anew"
        );
    }
}

/// Every `pixels …` of the shell blocks, one command each.
fn commands(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(kind) = line.strip_prefix("```") {
            inside = !inside && matches!(kind.trim(), "sh" | "bash" | "shell" | "console");
            continue;
        }
        if !inside {
            continue;
        }
        for part in line.trim_start_matches("$ ").split(" && ") {
            let part = part.trim();
            if part.starts_with("pixels ") {
                // Behind the dashes it is the pixel's command.
                let end = [" -- ", " # ", " | ", "; ", " > ", " < "]
                    .iter()
                    .filter_map(|stop| part.find(stop))
                    .min();
                found.push(part[..end.unwrap_or(part.len())].to_owned());
            }
        }
    }
    found
}

/// Words as a shell splits them, as far as examples need it.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        None => Ok(words),
        Some(open) => Err(format!("{open} is never closed")),
    }
}

#[test]
fn blocks_are_read_as_a_shell_would() {
    let text = "pixels outside\n```sh\n$ pixels exec a -- sh -c 'x; y' # say\nls && pixels ls | cat\n```\n\
                ```toml\npixels = 1\n```\n";
    assert_eq!(commands(text), ["pixels exec a", "pixels ls"]);
    assert_eq!(words("a 'b c' \"\"").unwrap(), ["a", "b c", ""]);
}
