//! Rules of the test suite itself.

use crate::support::repository::{files, has_extension, read};

#[test]
fn test_modules_are_listed_in_main() {
    let main = read("tests/it/main.rs");
    for file in files("tests/it") {
        let path = file.strip_prefix("tests/it").unwrap();
        let first = path.iter().next().unwrap().to_str().unwrap();
        let stem = first.trim_end_matches(".rs");
        assert!(
            stem == "main" || main.contains(&format!("mod {stem};")),
            "{first} is not listed in main.rs"
        );
    }
}

/// `cargo test` as an unprivileged user runs all tests without `#[ignore]`.
/// These tests must neither use the daemon nor install programs.
#[test]
fn tests_with_requirements_are_ignored_by_default() {
    // Split, because this file is checked too.
    let requirements = [
        concat!("lab::", "ready("),
        concat!("programs::", "ready("),
        concat!("Nas::", "lab("),
        concat!("on_", "lab("),
    ];
    let mut found = 0;
    let mut wrong = Vec::new();
    let mut tests = files("tests/it");
    tests.retain(|file| has_extension(file, &["rs"]) && !file.starts_with("tests/it/support"));
    for file in tests {
        let mut ignored = false;
        for (index, line) in read(&file).lines().enumerate() {
            match line {
                // A top-level item ends here.
                "}" => ignored = false,
                _ if line.starts_with("#[ignore = \"needs ") => ignored = true,
                _ if requirements.iter().any(|call| line.contains(call)) => {
                    found += 1;
                    if !ignored {
                        wrong.push(format!("{}:{}: {}", file.display(), index + 1, line.trim()));
                    }
                }
                _ => {}
            }
        }
    }
    assert!(found > 100, "only {found} calls found");
    assert_eq!(
        wrong, [""; 0],
        "add #[ignore = \"needs ...\"] to these tests"
    );
}
