//! Checks commands, options, variables, links, tables and the picture in the
//! documents. `readme.rs` runs the examples.

use std::collections::BTreeSet;

use pixels::config::KEYS;

use crate::support::env::TestEnv;
use crate::support::repository::{files, read, root};
use crate::support::tree;

/// Documents with links and commands.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "SECURITY.md",
    ".github/CONTRIBUTING.md",
    ".github/CHANGELOG.md",
    ".github/pull_request_template.md",
];

/// Variables that are not settings.
const OTHER_VARIABLES: &[&str] = &["PIXELS_LOG", "PIXELS_COMMIT"];

#[test]
fn documents_name_only_existing_variables() {
    for name in DOCUMENTS.iter().chain(&["config.example.toml"]) {
        let text = read(name);
        for (at, _) in text.match_indices("PIXELS_") {
            let variable: String = text[at..]
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                .collect();
            // `PIXELS_*` means all variables.
            let known = variable == "PIXELS_"
                || OTHER_VARIABLES.contains(&variable.as_str())
                || KEYS.iter().any(|key| key.variable == Some(&variable));
            assert!(known, "{name}: unknown variable {variable}");
        }
    }
}

#[test]
fn guide_names_only_existing_files_and_functions() {
    let guide = read("src/lib.rs");
    let table = guide.split("# Where is").nth(1).unwrap();
    let mut count = 0;
    for row in table.lines().take_while(|line| !line.contains("# How")) {
        // The first column is the question.
        let answer = row.splitn(3, '|').nth(2).unwrap_or_default();
        let words = answer.split('`').skip(1).step_by(2);
        let (files, names): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('.'));
        let sources: String = files
            .iter()
            .map(|file| read(format!("src/{file}")))
            .collect();
        for name in names {
            let function = name.rsplit("::").next().unwrap();
            let declared = sources.contains(&format!("fn {function}"));
            assert!(declared, "no function {name} in {files:?}");
            count += 1;
        }
    }
    assert!(count > 10, "only {count} functions found");
}

#[test]
fn commands_in_documents_parse() {
    let env = TestEnv::bare();
    for name in DOCUMENTS {
        for line in commands(&read(name)) {
            let words = words(&line).unwrap_or_else(|why| panic!("{name}: {line}: {why}"));
            let mut args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            args.push("--help");
            let outcome = env.pixels(&args);
            assert_eq!(outcome.code, 0, "{name}: {line}\n{}", outcome.stderr);
            // clap does not check the other flags of a command with --help.
            for flag in args.iter().filter(|word| word.starts_with('-')) {
                let flag = flag.split('=').next().unwrap();
                let known = outcome
                    .stdout
                    .split([' ', ',', '\n', '.', '['])
                    .any(|w| w == flag);
                assert!(known, "{name}: {line}: unknown flag {flag}");
            }
        }
    }
}

/// Command groups, which need a subcommand.
const GROUPS: &[&str] = &[
    "pixels",
    "pixels base",
    "pixels checkpoint",
    "pixels config",
    "pixels network",
    "pixels network gateway",
];

#[test]
fn readme_has_an_example_of_every_command() {
    let shown: Vec<Vec<String>> = commands(&read("README.md"))
        .iter()
        .map(|line| words(line).unwrap())
        .collect();
    for command in tree::commands() {
        let typed: Vec<&str> = command.split(' ').collect();
        let found = shown
            .iter()
            .any(|line| line.len() >= typed.len() && line[..typed.len()] == typed);
        let is_group = GROUPS.contains(&command.as_str());
        assert!(found || is_group, "README has no example of {command}");
    }
}

#[test]
fn readme_has_all_rows_of_the_benchmark() {
    let readme = read("README.md");
    let table = readme.split("<!-- bench -->").nth(1).unwrap();
    let table = table.split("<!-- /bench -->").next().unwrap();
    let rows = read("tests/bench/rows.rs");
    let names: Vec<&str> = rows
        .split("Row::new(")
        .skip(1)
        .filter_map(|row| row.split('"').nth(1))
        .collect();
    assert!(names.contains(&"exec"), "{names:?}");
    let shown: Vec<&str> = table
        .split("\n| `")
        .skip(1)
        .map(|row| row.split('`').next().unwrap())
        .collect();
    assert_eq!(shown, names, "rows in README and of the benchmark");
}

#[test]
fn picture_shows_the_session() {
    assert!(read("README.md").contains("(tests/picture/quickstart.svg)"));
    let picture = read("tests/picture/quickstart.svg");
    let session = read("tests/picture/session.txt").replace('&', "&amp;");
    let session = session.replace('<', "&lt;").replace('>', "&gt;");
    for command in session.lines() {
        assert!(
            picture.contains(&format!("</tspan> {command}</text>")),
            "the picture does not show {command}; run: cargo run --example picture"
        );
    }
}

#[test]
fn readme_lists_every_mcp_tool() {
    let tools = mcp_tools();
    assert!(tools.contains("create_sandbox"), "{tools:?}");
    let readme = read("README.md");
    let table = readme.split("\n| tool |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|row| row.strip_prefix("| `")?.split(" |").next())
        .flat_map(|names| names.split(", "))
        .map(|name| name.replace('`', ""))
        .collect();
    assert_eq!(listed, tools);
}

/// Names of the functions with the attribute `#[tool(…)]`.
fn mcp_tools() -> BTreeSet<String> {
    let mut tools = BTreeSet::new();
    for file in files("src/mcp/tools") {
        for declared in read(file).split("#[tool(").skip(1) {
            let name = declared.split("async fn ").nth(1).unwrap();
            tools.insert(name.split('(').next().unwrap().to_owned());
        }
    }
    tools
}

#[test]
fn links_in_documents_resolve() {
    let mut checked = 0;
    for name in DOCUMENTS {
        let text = read(name);
        for link in links(&text) {
            if link.contains("://") {
                assert!(link.starts_with("https://"), "{name}: {link}");
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let file = match path {
                "" => root().join(name),
                path => root().join(name).parent().unwrap().join(path),
            };
            assert!(file.exists(), "{name}: {link}: file not found");
            if !anchor.is_empty() {
                let target = std::fs::read_to_string(&file).unwrap();
                let found = anchors(&target).contains(anchor);
                assert!(found, "{name}: {link}: heading not found");
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} links found");
}

/// Lines of a Markdown document outside fenced code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Targets of inline links, images included.
fn links(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// Anchors of all headings, as GitHub derives them.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn links_and_anchors_skip_code() {
    let text = "# A `b` (c), d\n[x](y.md#z) ![p](q)\n```sh\n# no heading\n[no](link)\n```\n";
    assert_eq!(links(text), ["y.md#z", "q"]);
    assert_eq!(anchors(text), BTreeSet::from(["a-b-c-d".to_owned()]));
}

/// Every `pixels …` command of the shell blocks.
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
                // The command after `--` runs in the pixel.
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

/// Splits a line into words like a shell. Supports only quotes.
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
        Some(open) => Err(format!("unclosed {open}")),
    }
}

#[test]
fn commands_are_split_like_a_shell() {
    let text = "pixels outside\n```sh\n$ pixels exec a -- sh -c 'x; y' # say\nls && pixels ls | cat\n```\n\
                ```toml\npixels = 1\n```\n";
    assert_eq!(commands(text), ["pixels exec a", "pixels ls"]);
    assert_eq!(words("a 'b c' \"\"").unwrap(), ["a", "b c", ""]);
}
