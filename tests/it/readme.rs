//! Runs the shell blocks of README in order on a real daemon.
//!
//! The line before a block can be a comment: `<!-- not run: REASON -->` skips the
//! block, `<!-- ends with 0 or 1: REASON -->` also accepts the exit code 1.

use serde_json::json;

use crate::support::env::{BINARY, Outcome};
use crate::support::lab;
use crate::support::project::Project;
use crate::support::repository::read;

#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    text: String,
    /// The accepted exit codes; empty if the block is not run.
    expected: &'static [i32],
}

/// The shell blocks of a document.
fn blocks(document: &str) -> Vec<Block> {
    let lines: Vec<&str> = document.lines().collect();
    let mut found = Vec::new();
    for (at, _) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| **line == "```sh")
    {
        let text = lines[at + 1..].iter().take_while(|line| **line != "```");
        let before = at.checked_sub(1).map_or("", |before| lines[before]);
        let has_reason = |mark: &str| {
            let reason = before.strip_prefix(mark);
            reason.is_some_and(|reason| reason.len() > " -->".len() && reason.ends_with(" -->"))
        };
        let expected: &[i32] = if has_reason("<!-- not run: ") {
            &[]
        } else if has_reason("<!-- ends with 0 or 1: ") {
            &[0, 1]
        } else {
            assert!(!before.starts_with("<!--"), "{before}");
            &[0]
        };
        found.push(Block {
            line: at + 2,
            text: text.copied().collect::<Vec<_>>().join("\n"),
            expected,
        });
    }
    found
}

#[test]
#[ignore = "needs Incus"]
fn readme_examples_succeed() {
    lab::ready();
    // Uses a separate project, because the names in README may be in use.
    let config = json!({
        "features.images": "false",
        "features.profiles": "false",
        "features.storage.volumes": "false",
        "features.storage.buckets": "false",
    });
    let mut project = Project::new("readme", &config);
    project.env.set("TERM", "dumb");
    let home = project.env.home();
    let bin = home.join("bin");
    let work = home.join("project");
    for folder in [&bin, &work, &work.join("src")] {
        std::fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink(BINARY, bin.join("pixels")).unwrap();
    for (file, text) in [
        ("notes.txt", "a note\n"),
        (".gitignore", "*.log\n"),
        ("src/main.c", "int main(void) { return 0; }\n"),
    ] {
        std::fs::write(work.join(file), text).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", bin.display());
    let mut run = 0;
    for block in blocks(&read("README.md")) {
        if block.expected.is_empty() {
            continue;
        }
        let options = ["-euo", "pipefail", "-c", &block.text];
        let mut bash = project.env.program("bash", options);
        bash.env("PATH", &path).current_dir(&work);
        let outcome = Outcome::from(bash.output().unwrap());
        let (line, text) = (block.line, &block.text);
        let passed = block.expected.contains(&outcome.code);
        assert!(passed, "README, line {line}: {outcome:?}\n{text}");
        run += 1;
    }
    assert!(run > 10, "only {run} blocks were run");
    // Checks results that README describes.
    assert_eq!(read(work.join("copy.txt")), "a note\n");
    assert!(work.join("man/pixels-create.1").exists());
    assert!(work.join("back/src/main.c").exists());
}

#[test]
fn blocks_are_classified_by_comment() {
    let text = "```sh\na\nb\n```\n<!-- not run: c -->\n```sh\nc\n```\n```toml\nd\n```\n\
                <!-- ends with 0 or 1: e -->\n```sh\ne\n```\n";
    let block = |line, text: &str, expected| Block {
        line,
        text: text.to_owned(),
        expected,
    };
    let expected: [Block; 3] = [
        block(2, "a\nb", &[0]),
        block(7, "c", &[]),
        block(14, "e", &[0, 1]),
    ];
    assert_eq!(blocks(text), expected);
}
