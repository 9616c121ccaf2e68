//! Rules of the test suite itself.

use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")
}

/// Source files of test modules, without the support code.
fn test_files() -> Vec<(String, String)> {
    ["", "soak"]
        .iter()
        .flat_map(|below| std::fs::read_dir(directory().join(below)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let name = path
                .strip_prefix(directory())
                .unwrap()
                .display()
                .to_string();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn test_modules_are_listed_in_main() {
    let main = std::fs::read_to_string(directory().join("main.rs")).unwrap();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.trim_end_matches(".rs");
        assert!(
            stem == "main" || main.contains(&format!("mod {stem};")),
            "{name} is not listed in main.rs"
        );
    }
}

/// `cargo test` as an ordinary user runs all tests without `#[ignore]`. Those
/// must neither use the daemon nor install programs.
#[test]
fn tests_with_requirements_are_ignored_by_default() {
    // Split, because this file is scanned as well.
    let requirements = [concat!("lab::", "ready("), concat!("programs::", "ready(")];
    let mut found = 0;
    let mut wrong = Vec::new();
    for (file, text) in test_files() {
        let mut ignored = false;
        for (index, line) in text.lines().enumerate() {
            match line {
                // The end of a top-level item.
                "}" => ignored = false,
                _ if line.starts_with("#[ignore = \"needs ") => ignored = true,
                _ if requirements.iter().any(|call| line.contains(call)) => {
                    found += 1;
                    if !ignored {
                        wrong.push(format!("{file}:{}: {}", index + 1, line.trim()));
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
