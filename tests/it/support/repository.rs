//! The files of this repository.

use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
pub fn read(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All files below a folder, relative to the root. Skips `target` and `.git`.
pub fn files(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.strip_prefix(root()).unwrap();
        match path.is_dir() {
            true if [Path::new("target"), Path::new(".git")].contains(&file) => {}
            true => all.extend(files(file)),
            false => all.push(file.to_owned()),
        }
    }
    all
}

pub fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension()
        .is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

/// The targets that the release workflow builds.
pub fn release_targets() -> Vec<String> {
    let targets: Vec<String> = read(".github/workflows/release.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- target: "))
        .map(str::to_owned)
        .collect();
    assert!(!targets.is_empty());
    targets
}
