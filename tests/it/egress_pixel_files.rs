//! What a policy inside a pixel consists of, as files in a folder: the packet
//! filter and the resolver take them, and nothing stays behind.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use async_trait::async_trait;
use bytes::Bytes;
use pixels::egress::pixel::{self, Files};
use pixels::egress::{Mode, Policy, presets};
use pixels::model::{
    Error, ExecIo, ExecRequest, ExitStatus, FileKind, FileStat, Guest, GuestFile, Ids, Output,
    Result, Subject,
};
use tokio::sync::mpsc;

use crate::support::lab;

/// A stopped pixel whose disk is a local folder. Strict: what it is not asked
/// for in the right order fails.
struct Folder(tempfile::TempDir);

impl Folder {
    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path.strip_prefix('/').unwrap())
    }

    fn files(&self) -> Vec<String> {
        fn below(dir: &Path, all: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    below(&path, all);
                } else {
                    all.push(path.display().to_string());
                }
            }
        }
        let mut all = Vec::new();
        below(self.0.path(), &mut all);
        all
    }
}

fn fault(path: &str, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound(Subject::Path(path.into())),
        _ => Error::io(path, error),
    }
}

#[async_trait]
impl Guest for Folder {
    async fn exec(&self, _: &ExecRequest, _: ExecIo) -> Result<ExitStatus> {
        panic!("it is stopped");
    }

    async fn output(&self, _: &ExecRequest) -> Result<Output> {
        panic!("it is stopped");
    }

    async fn read_file(&self, path: &str, _: u64) -> Result<Vec<u8>> {
        std::fs::read(self.at(path)).map_err(|e| fault(path, e))
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        assert_eq!(file.owner, Ids::ROOT);
        let place = self.at(&file.path);
        // Unlike root in a pixel, an ordinary user cannot overwrite mode 0440.
        let _ = std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o600));
        std::fs::write(&place, &file.content).map_err(|e| fault(&file.path, e))?;
        let mode = std::fs::Permissions::from_mode(file.mode);
        std::fs::set_permissions(&place, mode).map_err(|e| fault(&file.path, e))
    }

    async fn write_chunks(&self, _: &str, _: mpsc::Receiver<Bytes>) -> Result<()> {
        panic!("not needed");
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        match std::fs::remove_file(self.at(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fault(path, error)),
            _ => Ok(()),
        }
    }

    async fn make_dir(&self, path: &str) -> Result<()> {
        match std::fs::create_dir(self.at(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(fault(path, error))
            }
            _ => Ok(()),
        }
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        match std::os::unix::fs::symlink(target, self.at(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(fault(path, error))
            }
            _ => Ok(()),
        }
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        std::fs::rename(self.at(from), self.at(to)).map_err(|e| fault(from, e))
    }

    async fn read_link(&self, _: &str) -> Result<String> {
        panic!("not needed");
    }

    async fn list_dir(&self, _: &str) -> Result<Vec<String>> {
        panic!("not needed");
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        let found = std::fs::symlink_metadata(self.at(path)).map_err(|e| fault(path, e))?;
        Ok(FileStat {
            kind: FileKind::File,
            mode: found.mode() & 0o7777,
            owner: Ids::ROOT,
            size: found.size(),
        })
    }
}

/// A disk as images have it.
fn disk() -> Folder {
    let folder = Folder(tempfile::tempdir().unwrap());
    for dir in [
        "etc/systemd/system",
        "usr/sbin",
        "usr/local/bin",
        "usr/local/lib",
        "var/lib",
    ] {
        std::fs::create_dir_all(folder.0.path().join(dir)).unwrap();
    }
    folder
}

fn policy(mode: Mode, allow: &[&str]) -> Files {
    let entries = allow.iter().map(|entry| entry.parse().unwrap());
    let policy = Policy::new(mode, entries).resolve(presets());
    Files::new(&policy, &[])
}

#[tokio::test]
async fn policy_removal_deletes_all_written_files() {
    let folder = disk();
    assert!(!pixel::has_packages(&folder).await.unwrap());
    for program in ["nft", "dnsmasq"] {
        std::fs::write(folder.at("/usr/sbin").join(program), "").unwrap();
    }
    assert!(pixel::has_packages(&folder).await.unwrap());
    let before = folder.files();

    let files = policy(Mode::Agent, &["*.example.org:443"]);
    pixel::write(&folder, &files).await.unwrap();
    let sudo = || std::fs::read_to_string(folder.at("/etc/sudoers.d/pixel")).unwrap();
    assert!(!sudo().contains("NOPASSWD: ALL"));
    let written = folder.files();
    pixel::write(&folder, &policy(Mode::Allowlist, &[]))
        .await
        .unwrap();
    assert_eq!(folder.files().len(), written.len());
    for file in &written {
        let path = Path::new(file);
        if path.is_symlink() {
            let target = std::fs::read_link(path).unwrap();
            assert!(folder.at(target.to_str().unwrap()).exists(), "{file}");
        }
    }

    pixel::remove(&folder).await.unwrap();
    assert!(sudo().contains("NOPASSWD: ALL"));
    std::fs::remove_file(folder.at("/etc/sudoers.d/pixel")).unwrap();
    let mut left = folder.files();
    left.sort();
    let mut expected = before;
    expected.sort();
    assert_eq!(left, expected);
    // Repeated, and where nothing ever was.
    pixel::remove(&disk()).await.unwrap();
}

/// The real programs, the packet filter in a network namespace of its own.
#[tokio::test]
#[ignore = "needs Incus"]
async fn nft_and_dnsmasq_accept_every_policy() {
    // `pixels setup` installs nft and dnsmasq.
    lab::ready();
    let folder = disk();
    let mut batch = String::new();
    for files in [
        policy(
            Mode::Agent,
            &[
                "10.1.2.0/24",
                "*.b.example",
                "x.b.example:22",
                "192.0.2.7:443",
            ],
        ),
        policy(Mode::Allowlist, &[]),
        policy(Mode::Allowlist, &["a.example", "2001:db8::/32"]),
    ] {
        pixel::write(&folder, &files).await.unwrap();
        let text = |name: &str| {
            let path = folder.at("/var/lib/pixels/egress").join(name);
            std::fs::read_to_string(path).unwrap()
        };
        // This machine does not have the user.
        batch.push_str(&text("ruleset").replace("\"pixels-dns\"", "\"root\""));
        let conf = folder.at("/var/lib/pixels/egress/resolver");
        let tested = Command::new("dnsmasq")
            .arg("--test")
            .arg(format!("--conf-file={}", conf.display()))
            .output()
            .unwrap();
        assert!(tested.status.success(), "{tested:?}");
        assert!(text("resolver").lines().any(|line| line == "address=/#/"));
    }
    // One after the other over the same table, as it is with changes.
    let path = folder.0.path().join("batch");
    std::fs::write(&path, &batch).unwrap();
    let script = "nft add table ip mine; nft -f \"$0\" && nft -f \"$0\" && nft list ruleset";
    let loaded = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(&path)
        .output()
        .unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
    let listing = String::from_utf8(loaded.stdout).unwrap();
    assert_eq!(listing.matches("policy drop;").count(), 3, "{listing}");
    assert!(listing.contains("table ip mine"), "{listing}");
}
