//! Runs the shell blocks of README in order on a real daemon.
//!
//! The line before a block can be a comment: `<!-- not run: REASON -->` skips the
//! block, `<!-- ends with 0 or 1: REASON -->` also accepts the exit code 1.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::env::{BINARY, TestEnv};
use crate::support::lab;
use crate::support::server::Server;

#[derive(Debug, PartialEq)]
enum Expected {
    Success,
    SuccessOrOne,
}

#[derive(Debug)]
struct Block {
    line: usize,
    text: String,
    /// `None` if the block is not run.
    expected: Option<Expected>,
}

/// The shell blocks of a document.
fn blocks(document: &str) -> Vec<Block> {
    let lines: Vec<&str> = document.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if *line != "```sh" {
            continue;
        }
        let text = lines[at + 1..].iter().take_while(|line| **line != "```");
        let before = at.checked_sub(1).map_or("", |before| lines[before]);
        let reason = |mark: &str| {
            let reason = before.strip_prefix(mark)?.strip_suffix(" -->")?;
            (!reason.is_empty()).then_some(())
        };
        let expected = if reason("<!-- not run: ").is_some() {
            None
        } else if reason("<!-- ends with 0 or 1: ").is_some() {
            Some(Expected::SuccessOrOne)
        } else {
            assert!(!before.starts_with("<!--"), "{before}");
            Some(Expected::Success)
        };
        found.push(Block {
            line: at + 2,
            text: text.copied().collect::<Vec<_>>().join("\n"),
            expected,
        });
    }
    found
}

/// A separate Incus project with its own gateway, because the pixels of README
/// have names that other pixels of the server may have.
struct Project {
    name: String,
    env: TestEnv,
}

impl Project {
    const PREFIX: &str = "px-t-readme-";

    fn new() -> Self {
        let server = Server::shared();
        for url in server.get("/1.0/projects").as_array().unwrap() {
            let name = url.as_str().unwrap().rsplit('/').next().unwrap();
            let creator = name.strip_prefix(Self::PREFIX);
            if creator.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(Self::existing(name));
            }
        }
        let name = format!("{}{}", Self::PREFIX, std::process::id());
        let config = json!({
            "features.images": "false",
            "features.profiles": "false",
            "features.storage.volumes": "false",
            "features.storage.buckets": "false",
        });
        let body = json!({"name": name, "config": config});
        server.try_done("POST", "/1.0/projects", &body).unwrap();
        Self::existing(&name)
    }

    fn existing(name: &str) -> Self {
        let mut env = TestEnv::bare();
        let creator = name.strip_prefix(Self::PREFIX).unwrap();
        env.set("PIXELS_INCUS_PROJECT", name)
            .set("PIXELS_NETWORK_BRIDGE", &format!("pxr{creator}"))
            .set("TERM", "dumb");
        Self {
            name: name.to_owned(),
            env,
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let remaining: Vec<Value> =
            serde_json::from_str(&self.env.pixels(["list", "--json"]).stdout).unwrap_or_default();
        let names = remaining.iter().filter_map(|pixel| pixel["name"].as_str());
        let words: Vec<&str> = ["destroy", "--force"].into_iter().chain(names).collect();
        if words.len() > 2 {
            let _ = self.env.pixels(&words);
        }
        let _ = self.env.pixels(["network", "gateway", "remove"]);
        let path = format!("/1.0/projects/{}", self.name);
        if let Err(error) = Server::shared().try_done("DELETE", &path, &Value::Null) {
            eprintln!("project {}: {error}", self.name);
        }
    }
}

#[test]
#[ignore = "needs Incus"]
fn readme_examples_succeed() {
    lab::ready();
    let project = Project::new();
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
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let mut run = 0;
    for block in blocks(&std::fs::read_to_string(readme).unwrap()) {
        let Some(expected) = &block.expected else {
            continue;
        };
        let path = std::env::var("PATH").unwrap();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block.text])
            .env_clear()
            .envs(
                project
                    .env
                    .command(["list"])
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .env("PATH", format!("{}:{path}", bin.display()))
            .current_dir(&work)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let passed = match expected {
            Expected::Success => output.status.success(),
            Expected::SuccessOrOne => matches!(output.status.code(), Some(0 | 1)),
        };
        assert!(
            passed,
            "README, line {}: {}\n{}\n{}{}",
            block.line,
            output.status,
            block.text,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        run += 1;
    }
    assert!(run > 10, "only {run} blocks were run");
    // Results that README describes.
    assert_eq!(
        std::fs::read_to_string(work.join("copy.txt")).unwrap(),
        "a note\n"
    );
    assert!(work.join("man/pixels-create.1").exists());
    assert!(work.join("back/src/main.c").exists());
}

#[test]
fn blocks_are_classified_by_comment() {
    let text = "```sh\na\nb\n```\n<!-- not run: c -->\n```sh\nc\n```\n```toml\nd\n```\n\
                <!-- ends with 0 or 1: e -->\n```sh\ne\n```\n";
    let found = blocks(text);
    let classified: Vec<(&str, &Option<Expected>)> = found
        .iter()
        .map(|b| (b.text.as_str(), &b.expected))
        .collect();
    assert_eq!(
        classified,
        [
            ("a\nb", &Some(Expected::Success)),
            ("c", &None),
            ("e", &Some(Expected::SuccessOrOne))
        ]
    );
    assert_eq!(found[0].line, 2);
}
