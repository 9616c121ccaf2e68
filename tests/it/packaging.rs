//! The files of a release have the same names in the workflow that builds them,
//! in README and in the installers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::env::BINARY;
use crate::support::programs::{self, output_of};
use crate::support::repository::{read, release_targets, root};
use crate::support::tree;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The target of this test binary.
fn host() -> String {
    let (arch, is_musl) = (std::env::consts::ARCH, cfg!(target_env = "musl"));
    format!(
        "{arch}-unknown-linux-{}",
        if is_musl { "musl" } else { "gnu" }
    )
}

/// Packs this test binary for the host's target.
fn pack(scratch: &Path, dist: &str) -> PathBuf {
    let (built, dist) = (scratch.join("built"), scratch.join(dist));
    let binary = built.join(host()).join("pixels");
    if !binary.exists() {
        std::fs::create_dir_all(built.join(host())).unwrap();
        let strip = ["--strip-all", BINARY, "-o"];
        output_of(Command::new("strip").args(strip).arg(&binary));
    }
    let mut package = Command::new(root().join(".github/package.sh"));
    output_of(package.args([&built, &dist]));
    dist
}

#[test]
#[ignore = "needs jq and strip"]
fn release_archive_contains_working_binary() {
    programs::ready(&[programs::JQ, programs::STRIP]);
    let scratch = tempfile::tempdir().unwrap();
    let dist = pack(scratch.path(), "dist");
    let name = format!("pixels-{VERSION}-{}", host());
    let bill = format!("pixels-{VERSION}.cdx.json");
    let made: BTreeSet<String> = std::fs::read_dir(&dist)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = [format!("{name}.tar.gz"), bill.clone(), "SHA256SUMS".into()];
    assert_eq!(made, expected.into());

    let sums = read(dist.join("SHA256SUMS"));
    assert_eq!(sums.lines().count(), 2, "{sums}");
    let check = ["--check", "--strict", "SHA256SUMS"];
    output_of(Command::new("sha256sum").args(check).current_dir(&dist));

    let archive = dist.join(format!("{name}.tar.gz"));
    let mut unpack = Command::new("tar");
    output_of(unpack.arg("xzf").arg(archive).current_dir(scratch.path()));
    let inside = scratch.path().join(&name);
    let mut version = Command::new(inside.join("pixels"));
    let reported = output_of(version.arg("--version").env_clear());
    let expected = format!("pixels {VERSION} (");
    assert!(reported.starts_with(&expected), "{reported}");
    for file in ["README.md", "SECURITY.md", "LICENSE", "config.example.toml"] {
        assert_eq!(read(inside.join(file)), read(file));
    }
    for command in tree::commands() {
        let page = inside.join(format!("man/{}.1", command.replace(' ', "-")));
        assert!(read(&page).contains(".SH SYNOPSIS"), "{page:?}");
    }
    let completions = inside.join("completions");
    for file in ["pixels.bash", "_pixels"] {
        assert!(read(completions.join(file)).contains("pixels"), "{file}");
    }
    let script = completions.join("pixels.bash");
    output_of(Command::new("bash").arg("-n").arg(script));
    assert!(completions.join("pixels.fish").exists());

    materials(&read(dist.join(bill)));

    // The same build produces the same archive.
    let again = pack(scratch.path(), "again");
    assert_eq!(read(again.join("SHA256SUMS")), sums);
}

/// Runs the binary in a root with only the binary and the daemon's socket: no
/// libc, no certificates, no /proc, no /etc. Builds that need a libc skip this
/// test.
#[test]
#[ignore = "needs Incus"]
#[cfg(target_env = "musl")]
fn static_binary_runs_in_empty_root() {
    crate::support::lab::ready();
    let empty = tempfile::tempdir().unwrap();
    std::fs::copy(BINARY, empty.path().join("pixels")).unwrap();
    let socket = empty.path().join("incus");
    std::fs::write(&socket, "").unwrap();
    let script = "mount --bind \"$1\" \"$2\" && exec chroot \"$3\" /pixels list --json";
    let shared = Path::new(crate::support::server::SHARED);
    let reported = output_of(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["sh", "-c", script, "sh"])
            .args([shared, &socket, empty.path()])
            .env("PIXELS_INCUS_SOCKET", "/incus"),
    );
    let list: serde_json::Value = serde_json::from_str(&reported).unwrap();
    assert!(list.is_array(), "{reported}");
}

/// The bill of materials lists all shipped crates and no other crates.
fn materials(text: &str) {
    let bill: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["metadata"]["component"]["version"], VERSION);
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    let locked: BTreeSet<(&str, &str)> = packages
        .map(|one| (&one["name"], &one["version"]))
        .map(|(name, version)| (name.as_str().unwrap(), version.as_str().unwrap()))
        .collect();
    let mut names = BTreeSet::new();
    let mut references = BTreeSet::new();
    for one in bill["components"].as_array().unwrap() {
        let text = |key: &str| one[key].as_str().unwrap();
        let (name, version) = (text("name"), text("version"));
        let is_locked = locked.contains(&(name, version));
        assert!(is_locked, "{name} {version} is not locked");
        let license = &one["licenses"][0]["expression"];
        assert!(license.is_string(), "{name} has no license");
        names.insert(name);
        assert!(references.insert(text("bom-ref")));
    }
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let keys = |table: &str| -> BTreeSet<&str> {
        let table = manifest[table].as_table().unwrap();
        table.keys().map(String::as_str).collect()
    };
    for shipped in keys("dependencies") {
        assert!(names.contains(shipped), "{shipped} is missing");
    }
    // No shipped crate depends on this development dependency.
    assert!(keys("dev-dependencies").contains("rcgen") && !names.contains("rcgen"));
    // Only macOS uses this crate.
    assert!(names.contains("core-foundation"), "no macOS crate");
    for one in bill["dependencies"].as_array().unwrap() {
        for on in one["dependsOn"].as_array().unwrap() {
            let on = on.as_str().unwrap();
            assert!(references.contains(on), "{on} is not a component");
        }
    }
}

#[test]
fn archive_names_match_binstall_and_readme() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let binstall = &manifest["package"]["metadata"]["binstall"];
    let rendered = |key: &str, target: &str| -> String {
        let mut text = binstall[key].as_str().unwrap().to_owned();
        for (key, value) in [
            ("repo", "REPOSITORY"),
            ("name", "pixels"),
            ("version", VERSION),
            ("target", target),
            ("bin", "pixels"),
            ("binary-ext", ""),
        ] {
            text = text.replace(&format!("{{ {key} }}"), value);
        }
        assert!(!text.contains('{'), "{key}: {text}");
        text
    };
    let readme = read("README.md");
    for target in release_targets() {
        let name = format!("pixels-{VERSION}-{target}");
        assert_eq!(
            rendered("pkg-url", &target),
            format!("REPOSITORY/releases/download/v{VERSION}/{name}.tar.gz")
        );
        assert_eq!(rendered("bin-dir", &target), format!("{name}/pixels"));
        let shown = format!("pixels-VERSION-{target}.tar.gz");
        assert!(readme.contains(&shown), "README: {shown} not found");
    }
    for shown in ["pixels-VERSION.cdx.json", "SHA256SUMS"] {
        assert!(readme.contains(shown), "README: {shown} not found");
    }
    // README names only archives that are built.
    for (at, _) in readme.match_indices("pixels-VERSION-") {
        let shown = &readme[at + "pixels-VERSION-".len()..];
        let target = shown.split(".tar.gz").next().unwrap().to_owned();
        let is_built = release_targets().contains(&target);
        assert!(is_built, "README: no job builds {target:?}");
    }
}

/// mise selects an archive by the system and processor in its name, and accepts
/// a musl archive if no other Linux archive exists.
#[test]
fn release_has_one_target_per_system() {
    let mut systems = BTreeSet::new();
    for target in release_targets() {
        let words: Vec<&str> = target.split('-').collect();
        let system = ["linux", "darwin"].iter().find(|one| words.contains(one));
        let processor = ["x86_64", "aarch64"].iter().find(|one| words[0] == **one);
        assert!(system.is_some() && processor.is_some(), "{target}");
        let is_musl = words.contains(&"musl");
        assert!(!target.contains("linux") || is_musl, "{target}");
        let is_first = systems.insert((system, processor));
        assert!(is_first, "{target} is the second archive of its system");
    }
    assert_eq!(systems.len(), 4);
}

#[test]
fn workflow_actions_are_pinned() {
    for file in ["ci.yml", "release.yml"] {
        let text = read(format!(".github/workflows/{file}"));
        let used: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: "))
            .collect();
        assert!(!used.is_empty());
        for action in used {
            let pin = action.split('@').nth(1).unwrap_or_default();
            let (hash, version) = pin.split_once(" # v").unwrap_or((pin, ""));
            assert!(
                hash.len() == 40 && hash.bytes().all(|c| c.is_ascii_hexdigit()),
                "{file}: {action}"
            );
            assert!(!version.is_empty(), "{file}: {action}: no version");
        }
        assert!(
            text.contains("persist-credentials: false"),
            "{file}: checkouts keep the token"
        );
    }
}
