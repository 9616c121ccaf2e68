//! The files that write to the terminal. All other code prints through `ui`,
//! whose text is plain.

use std::collections::BTreeSet;

use crate::support::repository::{files, has_extension, read};

/// Calls that write to the terminal, and the files that use each. A missing file
/// and an unused file both fail the test.
const WRITERS: [(&str, &[&str]); 6] = [
    // The output of a command in a pixel, of `pull -`, and MCP messages.
    (
        "stdout()",
        &[
            "cli/attach.rs",
            "cli/files/pull.rs",
            "cli/mcp/serve.rs",
            "term/mod.rs",
            "term/stdout_writer.rs",
            "ui/mod.rs",
        ],
    ),
    (
        "stderr()",
        &[
            "cli/attach.rs",
            "cli/status.rs",
            "fuzz.rs",
            "term/plain_writer.rs",
            "term/stdout_writer.rs",
            "ui/mod.rs",
            "ui/progress_bar.rs",
            "ui/spinner.rs",
        ],
    ),
    // Generated scripts and manual pages.
    (".raw(", &["cli/completions.rs", "cli/man.rs"]),
    // Help pages.
    (".print()", &["lib.rs"]),
    ("/dev/tty", &["term/mod.rs"]),
    // Instructions for cargo.
    ("println!(", &["build.rs"]),
];

#[test]
fn only_listed_files_write_to_the_terminal() {
    let mut sources = files("src");
    sources.retain(|file| has_extension(file, &["rs"]));
    for (call, expected) in WRITERS {
        let uses = |line: &str| {
            let code = line.split("//").next().unwrap_or_default();
            let code = code.replace("().is_terminal()", "");
            code.replace(".use_stderr()", "").contains(call)
        };
        let mut found = BTreeSet::new();
        for file in &sources {
            if read(file).lines().any(uses) {
                found.insert(file.strip_prefix("src").unwrap().display().to_string());
            }
        }
        let expected = expected.iter().map(|file| (*file).to_owned()).collect();
        assert_eq!(found, expected, "files with {call}: print with Ui");
    }
}
