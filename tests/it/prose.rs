//! Checks the language of everything that a person reads: words and phrases
//! that a docker or Incus user would have to translate are banned.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::support::repository::{files, has_extension, read};

/// Phrases banned in source files, scripts, settings and documents, each with
/// its replacement.
const BANNED: &[(&str, &str)] = &[
    ("told", "printed, reported, returned"),
    ("tells", "prints, reports, shows"),
    ("said", "printed, reported"),
    ("says", "prints, states, reports"),
    ("is no", "is not a"),
    ("are no", "has no, no X found"),
    ("are none", "no X found"),
    ("is none", "no X found"),
    ("nothing of it", "nothing, none of its NOUN"),
    ("anew", "again"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("makes good", "repairs"),
    ("made good", "repaired"),
    ("makes room", "run: COMMAND"),
    ("unmade", "deleted"),
    ("half made", "incomplete"),
    ("whoever", "the user, the process, the client"),
    ("whomever", "the user, the process, the client"),
    ("somebody", "another user, another process"),
    ("anybody", "any user, any process"),
    ("everybody", "all users, all processes"),
    ("nobody", "no user, no process"),
    ("meanwhile", "during NOUN"),
    ("stands for", "means"),
    ("stands in", "replaces"),
    ("stand for", "mean"),
    ("stand in", "replace"),
    ("of ours", "our NOUN, or the name of the thing"),
    ("of yours", "your NOUN"),
    ("of theirs", "their NOUN"),
    ("lifts", "removes"),
    ("lets in", "allows"),
    ("let in", "allow"),
    ("comes along", "is copied"),
    ("come along", "are copied"),
    ("goes by itself", "expires, exits"),
    ("go by themselves", "expire, exit"),
    ("by itself after", "after TIME"),
    ("wish", "options, request, spec"),
    ("shall", "must, or the present tense"),
    ("what there is", "the name of the things"),
    ("is at it", "is running"),
    ("under way", "in progress, running"),
    ("walled", "isolated"),
    ("authorised", "authorized"),
    ("licence", "license"),
    ("behaviour", "behavior"),
    ("colour", "color"),
    ("initialise", "initialize"),
    ("recognise", "recognize"),
    ("honour", "honor"),
];

/// Test names start with their subject, not with these words.
const BANNED_TEST_STARTS: &[&str] = &[
    "it_",
    "its_",
    "what_",
    "that_",
    "those_",
    "they_",
    "who_",
    "whatever_",
];

#[test]
fn texts_avoid_banned_phrases() {
    // By their first word. Comparing every word with every phrase takes seconds.
    let mut banned: HashMap<&str, Vec<(Vec<&str>, &str)>> = HashMap::new();
    for (phrase, instead) in BANNED {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        banned.entry(phrase[0]).or_default().push((phrase, instead));
    }
    let mut found = String::new();
    for file in texts() {
        let text = read(&file);
        let words = words(&text);
        for at in 0..words.len() {
            let same_start = banned.get(words[at].1.as_str());
            for (phrase, instead) in same_start.into_iter().flatten() {
                let here = words[at..].iter().map(|(_, word)| word);
                if here.take(phrase.len()).eq(phrase.iter()) && !is_plain(&words, at, phrase) {
                    let (line, phrase) = (words[at].0, phrase.join(" "));
                    writeln!(found, "{}:{line}: {phrase:?}: {instead}", file.display()).unwrap();
                }
            }
        }
    }
    assert!(found.is_empty(), "write in plain English:\n{found}");
}

#[test]
fn test_names_begin_with_their_subject() {
    let mut found = String::new();
    for file in texts().filter(|file| has_extension(file, &["rs"])) {
        let text = read(&file).replace("#[tokio::test", "#[test]");
        for test in text.split("#[test]").skip(1) {
            let name = test.split("fn ").nth(1).unwrap_or_default();
            let name = name.split('(').next().unwrap_or_default();
            let phrase = format!(" {} ", name.replace('_', " "));
            let mut starts = BANNED_TEST_STARTS.iter();
            let is_hidden = starts.any(|start| name.starts_with(start));
            let mut banned = BANNED.iter().map(|(banned, _)| format!(" {banned} "));
            if is_hidden || banned.any(|banned| phrase.contains(&banned)) {
                writeln!(found, "{}: {name}", file.display()).unwrap();
            }
        }
    }
    assert!(
        found.is_empty(),
        "name the subject, the condition, the result:\n{found}"
    );
}

/// "There is no gateway" and "is no longer" are plain English; "is no gateway" is not.
fn is_plain(words: &[(usize, String)], at: usize, phrase: &[&str]) -> bool {
    let negation = matches!(phrase, ["is" | "are", "no" | "none"]);
    let before = at.checked_sub(1).map(|before| words[before].1.as_str());
    let after = words.get(at + phrase.len()).map(|(_, word)| word.as_str());
    negation && (before == Some("there") || after == Some("longer"))
}

/// The words of a text in lower case, each with its line number. Comment marks
/// and line ends do not interrupt a phrase; punctuation does.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line
            .trim_start()
            .trim_start_matches(['/', '!', '#', '*', ' ']);
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            if c.is_alphanumeric() || c == '_' || c == '\'' {
                word.extend(c.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                found.push((at + 1, std::mem::take(&mut word)));
            }
            if !c.is_whitespace() {
                found.push((at + 1, c.to_string()));
            }
        }
    }
    found
}

/// All files written by hand for people, without this file.
fn texts() -> impl Iterator<Item = PathBuf> {
    const EXTENSIONS: &[&str] = &[
        "rs", "md", "sh", "toml", "yml", "py", "pl", "service", "timer", "path", "conf", "snap",
    ];
    let mut texts = files("");
    texts.retain(|file| {
        let is_fuzz_input = file.starts_with("tests/fuzz");
        let name = file.file_name().unwrap().to_str().unwrap();
        (has_extension(file, EXTENSIONS) || !name.contains('.'))
            && !is_fuzz_input
            && !["LICENSE", "prose.rs"].contains(&name)
    });
    assert!(texts.len() > 100, "{texts:?}");
    texts.into_iter()
}

#[test]
fn words_are_compared_across_line_breaks() {
    let words: Vec<String> = words("/// The user is\n/// Told. \"x\"")
        .into_iter()
        .map(|(_, word)| word)
        .collect();
    assert_eq!(words.join(" "), "the user is told . \" x \"");
}
