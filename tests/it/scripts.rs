//! The shell scripts that the program carries, as they are shipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::programs;

fn scripts() -> Vec<PathBuf> {
    fn below(folder: &Path, all: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, all);
            } else if path.extension().is_some_and(|e| e == "sh" || e == "bash") {
                all.push(path);
            }
        }
    }
    let mut all = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    assert!(!all.is_empty());
    all
}

#[track_caller]
fn passes(program: &str, options: &[&str], script: &Path) {
    let output = Command::new(program)
        .args(options)
        .arg(script)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {}:\n{}{}",
        script.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn scripts_parse_and_name_their_shell() {
    for script in scripts() {
        let text = std::fs::read_to_string(&script).unwrap();
        let bash =
            text.starts_with("#!/bin/bash\n") || script.extension().is_some_and(|e| e == "bash");
        passes(if bash { "bash" } else { "sh" }, &["-n"], &script);
        // A sourced file is not a program.
        let first = ["#!/bin/sh\n", "#!/bin/bash\n", "# shellcheck shell="];
        let reported = first.iter().any(|first| text.starts_with(first));
        assert!(reported, "{} has no first line", script.display());
    }
}

#[test]
#[ignore = "needs shellcheck"]
fn scripts_pass_shellcheck() {
    programs::ready(&[programs::SHELLCHECK]);
    for script in scripts() {
        passes("shellcheck", &[], &script);
    }
}
