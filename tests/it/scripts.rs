//! Checks the shell scripts that are built into pixels.

use std::path::PathBuf;
use std::process::Command;

use crate::support::programs::{self, output_of};
use crate::support::repository::{files, has_extension, read, root};

fn scripts() -> Vec<PathBuf> {
    let mut all = files("src");
    all.retain(|file| has_extension(file, &["sh", "bash"]));
    assert!(!all.is_empty());
    all
}

#[test]
fn scripts_parse_and_name_their_shell() {
    for script in scripts() {
        let text = read(&script);
        let bash = text.starts_with("#!/bin/bash\n") || has_extension(&script, &["bash"]);
        let mut shell = Command::new(if bash { "bash" } else { "sh" });
        output_of(shell.arg("-n").arg(root().join(&script)));
        // A sourced file has no interpreter line.
        let first = ["#!/bin/sh\n", "#!/bin/bash\n", "# shellcheck shell="];
        let reported = first.iter().any(|first| text.starts_with(first));
        assert!(reported, "{} has no shell line", script.display());
    }
}

#[test]
#[ignore = "needs shellcheck"]
fn scripts_pass_shellcheck() {
    programs::ready(&[programs::SHELLCHECK]);
    output_of(
        Command::new("shellcheck")
            .args(scripts())
            .current_dir(root()),
    );
}
