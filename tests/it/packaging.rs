//! The files of a release, under the same names everywhere:
//! the workflow that makes it, README, and the installers that look for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::env::BINARY;
use crate::support::{programs, tree};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// What this test's own binary was built for.
fn host() -> String {
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    };
    format!("{}-unknown-linux-{libc}", std::env::consts::ARCH)
}

/// The targets that the release workflow builds.
fn targets() -> Vec<String> {
    let found: Vec<String> = read(".github/workflows/release.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- target: "))
        .map(str::to_owned)
        .collect();
    assert!(!found.is_empty());
    found
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Packs this test's binary, for the host's target.
fn pack(scratch: &Path, dist: &str) -> PathBuf {
    let built = scratch.join("built").join(host());
    if !built.exists() {
        std::fs::create_dir_all(&built).unwrap();
        let small = built.join("pixels");
        run(Command::new("strip")
            .args(["--strip-all", "-o"])
            .arg(&small)
            .arg(BINARY));
    }
    let dist = scratch.join(dist);
    run(Command::new(root().join(".github/package.sh"))
        .arg(scratch.join("built"))
        .arg(&dist));
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

    let sums = std::fs::read_to_string(dist.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 2, "{sums}");
    run(Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(&dist));

    let unpacked = scratch.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .arg("xzf")
        .arg(dist.join(format!("{name}.tar.gz")))
        .arg("--directory")
        .arg(&unpacked));
    let inside = unpacked.join(&name);
    let reported = run(Command::new(inside.join("pixels"))
        .arg("--version")
        .env_clear());
    assert!(
        reported.starts_with(&format!("pixels {VERSION} (")),
        "{reported}"
    );
    for file in ["README.md", "SECURITY.md", "LICENSE", "config.example.toml"] {
        assert_eq!(
            std::fs::read_to_string(inside.join(file)).unwrap(),
            read(file)
        );
    }
    for command in tree::commands() {
        let page = inside.join(format!("man/{}.1", command.replace(' ', "-")));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{page:?}: {e}"));
        assert!(text.contains(".SH SYNOPSIS"), "{page:?}");
    }
    for (file, shell) in [("pixels.bash", "bash"), ("_pixels", "zsh")] {
        let script = inside.join("completions").join(file);
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(text.contains("pixels"), "{file}");
        if shell == "bash" {
            run(Command::new("bash").arg("-n").arg(&script));
        }
    }
    assert!(inside.join("completions/pixels.fish").exists());

    materials(&std::fs::read_to_string(dist.join(bill)).unwrap());

    // The same build gives the same archive.
    let again = pack(scratch.path(), "again");
    assert_eq!(
        std::fs::read_to_string(again.join("SHA256SUMS")).unwrap(),
        sums
    );
}

/// In a root that holds the binary and the daemon's socket: no libc, no
/// certificates, no /proc, no /etc. Other builds need a libc, so there is
/// nothing to test in them.
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
    let reported = run(Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(["sh", "-c", script, "sh"])
        .args([shared, &socket, empty.path()])
        .env("PIXELS_INCUS_SOCKET", "/incus"));
    let list: serde_json::Value = serde_json::from_str(&reported).unwrap();
    assert!(list.is_array(), "{reported}");
}

/// The bill of materials has what is shipped, and only that.
fn materials(text: &str) {
    let bill: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["metadata"]["component"]["version"], VERSION);
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).unwrap();
    let locked: BTreeSet<(&str, &str)> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["name"].as_str().unwrap(),
                one["version"].as_str().unwrap(),
            )
        })
        .collect();
    let mut names = BTreeSet::new();
    let mut references = BTreeSet::new();
    for one in bill["components"].as_array().unwrap() {
        let (name, version) = (
            one["name"].as_str().unwrap(),
            one["version"].as_str().unwrap(),
        );
        assert!(
            locked.contains(&(name, version)),
            "{name} {version} is not locked"
        );
        assert!(
            one["licenses"][0]["expression"].is_string(),
            "{name} has no license"
        );
        names.insert(name);
        assert!(references.insert(one["bom-ref"].as_str().unwrap()));
    }
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let keys = |table: &str| -> BTreeSet<&str> {
        let table = manifest[table].as_table().unwrap();
        table.keys().map(String::as_str).collect()
    };
    for shipped in keys("dependencies") {
        assert!(names.contains(shipped), "{shipped} is missing");
    }
    // Not even as a dependency of another crate: nothing else uses it.
    assert!(keys("dev-dependencies").contains("rcgen") && !names.contains("rcgen"));
    // A crate of macOS alone.
    assert!(names.contains("core-foundation"), "macOS is missing");
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
        let text = [
            ("repo", "REPOSITORY"),
            ("name", "pixels"),
            ("version", VERSION),
            ("target", target),
            ("bin", "pixels"),
            ("binary-ext", ""),
        ]
        .iter()
        .fold(
            binstall[key].as_str().unwrap().to_owned(),
            |text, (key, value)| text.replace(&format!("{{ {key} }}"), value),
        );
        assert!(!text.contains('{'), "{key}: {text}");
        text
    };
    let readme = read("README.md");
    for target in targets() {
        let name = format!("pixels-{VERSION}-{target}");
        assert_eq!(
            rendered("pkg-url", &target),
            format!("REPOSITORY/releases/download/v{VERSION}/{name}.tar.gz")
        );
        assert_eq!(rendered("bin-dir", &target), format!("{name}/pixels"));
        let shown = format!("pixels-VERSION-{target}.tar.gz");
        assert!(readme.contains(&shown), "README: no {shown}");
    }
    for shown in ["pixels-VERSION.cdx.json", "SHA256SUMS"] {
        assert!(readme.contains(shown), "README: no {shown}");
    }
    // And none that is not made.
    for (at, _) in readme.match_indices("pixels-VERSION-") {
        let target = readme[at..]["pixels-VERSION-".len()..]
            .split(".tar.gz")
            .next();
        assert!(
            targets().iter().any(|one| Some(one.as_str()) == target),
            "README: no job builds {target:?}"
        );
    }
}

/// mise chooses an archive by words for system and processor in its name, and
/// takes a musl archive if it is the only Linux one.
#[test]
fn release_has_one_target_per_system() {
    let mut systems = BTreeSet::new();
    for target in targets() {
        let words: Vec<&str> = target.split('-').collect();
        let system = ["linux", "darwin"].iter().find(|one| words.contains(one));
        let processor = ["x86_64", "aarch64"].iter().find(|one| words[0] == **one);
        assert!(system.is_some() && processor.is_some(), "{target}");
        assert!(
            !target.contains("linux") || words.contains(&"musl"),
            "{target}"
        );
        assert!(
            systems.insert((system, processor)),
            "{target} is the second"
        );
    }
    assert_eq!(systems.len(), 4);
}

#[test]
fn workflow_actions_are_pinned() {
    for file in ["ci.yml", "release.yml"] {
        let text = read(&format!(".github/workflows/{file}"));
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
            assert!(!version.is_empty(), "{file}: {action}: which version?");
        }
        assert!(
            text.contains("persist-credentials: false"),
            "{file}: checkouts keep the token"
        );
    }
}
