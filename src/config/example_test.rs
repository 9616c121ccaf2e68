//! Checks that `config.example.toml` documents every key with its default.

use super::load_test::{load, vars};
use super::*;

/// The dotted keys in their order, each with the comment above the key.
fn documented() -> Vec<(String, String)> {
    let (mut section, mut comment, mut keys) = (String::new(), String::new(), Vec::new());
    for line in EXAMPLE.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.replace(']', ".");
            let table = section.trim_end_matches('.').trim_end_matches(".dev");
            let is_table = ["env", "mcp.bases"].contains(&table);
            keys.extend(is_table.then(|| (table.to_owned(), comment.clone())));
        } else if let Some((name, _)) = line.split_once(" = ")
            && !section.starts_with("mcp.bases.")
        {
            keys.push((format!("{section}{name}"), comment.clone()));
        }
        comment.clear();
    }
    keys
}

#[test]
fn example_has_every_key_with_a_comment_that_names_its_variable() {
    let documented = documented();
    let names: Vec<&str> = documented.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, Vec::from_iter(KEYS.iter().map(|key| key.name)));
    for ((name, comment), key) in documented.iter().zip(KEYS.iter()) {
        let words = comment.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        // The heading contains `PIXELS_*`, which gives the word "PIXELS_".
        let variables = words.filter(|word| word.starts_with("PIXELS_") && *word != "PIXELS_");
        let variables = Vec::from_iter(variables);
        assert_eq!(variables, Vec::from_iter(key.variable), "{name}");
    }
}

#[test]
fn copy_of_the_example_changes_nothing() {
    let plain = load("", &[], &Flags::default()).unwrap();
    let copied = load(EXAMPLE, &[], &Flags::default()).unwrap();
    assert_eq!((&plain.warnings, &copied.warnings), (&vec![], &vec![]));
    let [plain_debug, copied_debug] = [&plain, &copied].map(|it| format!("{:?}", it.settings));
    assert_eq!(plain_debug, copied_debug);
    let mut origins = plain.effective.iter().map(|setting| &setting.origin);
    assert!(origins.all(|origin| *origin == Origin::Default));
}

#[test]
fn commented_examples_are_valid() {
    let is_example = |text: &&str| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = text.split_once(" = ").map(|(name, _)| name);
        text.starts_with('[') || name.is_some_and(|name| name.chars().all(is_name))
    };
    let lines = EXAMPLE.lines();
    let lines = lines.map(|line| line.strip_prefix("# ").filter(is_example).unwrap_or(line));
    let env = [("HTTP_PROXY", "http://p"), ("GITHUB_TOKEN", "t")];
    let loaded = load(&Vec::from_iter(lines).join("\n"), &env, &Flags::default()).unwrap();
    assert_eq!(loaded.warnings, []);
    assert!(loaded.settings.mcp.bases.contains_key("rust"));
    let guest = loaded.settings.env.resolve(&vars(&env)).unwrap();
    let [image, session] = [guest.image, guest.session].map(|it| Vec::from_iter(it.into_keys()));
    assert_eq!(image, ["EDITOR", "HTTP_PROXY"]);
    assert_eq!(session, ["GITHUB_TOKEN", "TERM_PROGRAM"]);
}
