//! Reads facts about this machine from its files and tools.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use super::INCUS_DIR;
use super::apt_sources::{self, Source};
use super::command::{self, CommandLine};
use super::error::Error;
use super::facts::{LocalFacts, OsRelease};
use super::kernel_limits;
use super::packages;
use super::read_file::{read, read_or_empty};
use super::subid;
use super::subnet;

/// Reads facts about this machine and its daemon with the state directory
/// `incus_dir`. Changes nothing.
pub async fn local(incus_dir: &Path) -> Result<LocalFacts, Error> {
    let incusd = packages::find("incusd");
    let packages = packages::present(packages::find);
    let apt = packages::find("apt-get").is_some();
    let mounts = read_or_empty("/proc/self/mountinfo")?;
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut routes = routes().await?;
    routes.extend(subnet::from_resolv_conf(&read_or_empty(
        "/etc/resolv.conf",
    )?));
    Ok(LocalFacts {
        linux: cfg!(target_os = "linux"),
        root: rustix::process::geteuid().is_root(),
        os: os_release()?,
        machine: rustix::system::uname()
            .machine()
            .to_string_lossy()
            .into_owned(),
        systemd: Path::new("/run/systemd/system").is_dir() && init_is_systemd()?,
        apt,
        unfinished: packages::unfinished(&read_or_empty("/var/lib/dpkg/status")?),
        sources: apt_sources()?,
        apt_has_incus: apt && incusd.is_none() && apt_has_incus().await?,
        incusd,
        packages,
        daemon_pid: daemon_pid(incus_dir)?,
        incus_dir: incus_dir.to_owned(),
        admin_group: read_or_empty("/etc/group")?
            .lines()
            .any(|line| line.starts_with("incus-admin:")),
        fuse: Path::new("/dev/fuse").exists(),
        lxcfs_mounted: mounts.contains(" - fuse.lxcfs "),
        kernel_limits: kernel_limits::read_all()?,
        subuid: read_or_empty("/etc/subuid")?,
        subgid: read_or_empty("/etc/subgid")?,
        id_limit: subid::limit(&read_or_empty("/proc/self/uid_map")?),
        btrfs: supports_btrfs(&release)?,
        free_disk: free_disk(incus_dir)?,
        routes,
        interfaces: entries("/sys/class/net")?
            .iter()
            .filter_map(|path| file_name(path))
            .collect(),
        seed: seed()?,
    })
}

fn os_release() -> Result<OsRelease, Error> {
    let text = match read("/etc/os-release")? {
        Some(text) => text,
        None => read_or_empty("/usr/lib/os-release")?,
    };
    Ok(OsRelease::parse(&text))
}

/// Whether process 1 is systemd. An image may contain `/run/systemd/system`
/// without running systemd.
fn init_is_systemd() -> Result<bool, Error> {
    Ok(read_or_empty("/proc/1/comm")?.trim() == "systemd")
}

fn apt_sources() -> Result<Vec<Source>, Error> {
    let mut all = Vec::new();
    let mut files = entries("/etc/apt/sources.list.d")?;
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    for path in files {
        let text = read_or_empty(&path)?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => all.extend(apt_sources::parse_deb822(&text)),
            Some("list") => all.extend(apt_sources::parse_one_line(&text)),
            _ => {}
        }
    }
    for uri in all.iter_mut().flat_map(|source| source.uris.iter_mut()) {
        if let Some(path) = apt_sources::mirror_file(uri) {
            let list = read_or_empty(path)?;
            if let Some(first) = apt_sources::first_mirror(&list) {
                *uri = first.to_owned();
            }
        }
    }
    Ok(all)
}

/// Whether apt's current package lists contain an installable Incus.
async fn apt_has_incus() -> Result<bool, Error> {
    let lines = output(&CommandLine::new("apt-cache", ["policy", packages::INCUS])).await?;
    Ok(lines
        .iter()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)"))
}

async fn routes() -> Result<Vec<Ipv4Net>, Error> {
    // VPNs use separate routing tables, which only `ip` lists.
    if packages::find("ip").is_some() {
        let args = ["-j", "-4", "route", "show", "table", "all"];
        let lines = output(&CommandLine::new("ip", args)).await?;
        if let Ok(routes) = subnet::from_ip_json(&lines.join("\n")) {
            return Ok(routes);
        }
    }
    Ok(subnet::from_proc(&read_or_empty("/proc/net/route")?))
}

async fn output(line: &CommandLine) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    command::run(line, &mut |text| lines.push(text.to_owned())).await?;
    Ok(lines)
}

/// Returns the process id of the daemon with this state directory. The daemon's
/// helper processes have the same name and a subcommand.
fn daemon_pid(incus_dir: &Path) -> Result<Option<u32>, Error> {
    for path in entries("/proc")? {
        let Some(pid) = file_name(&path).and_then(|name| name.parse().ok()) else {
            continue;
        };
        // The process may have exited, or another user may own the process.
        let Ok(comm) = fs::read_to_string(path.join("comm")) else {
            continue;
        };
        if comm.trim() != "incusd" {
            continue;
        }
        let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        if is_daemon(&arguments) && state_dir(&environment) == incus_dir {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

fn is_daemon(cmdline: &[u8]) -> bool {
    let mut arguments = cmdline.split(|byte| *byte == 0).skip(1);
    arguments
        .next()
        .is_some_and(|first| first.is_empty() || first.starts_with(b"-"))
}

/// Returns the state directory of a daemon with this `/proc/PID/environ`.
fn state_dir(environ: &[u8]) -> PathBuf {
    let text = environ
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"INCUS_DIR="));
    match text {
        Some(dir) => PathBuf::from(String::from_utf8_lossy(dir).into_owned()),
        None => PathBuf::from(INCUS_DIR),
    }
}

/// Whether the kernel has btrfs, built in or as a module, and loop devices.
fn supports_btrfs(release: &str) -> Result<bool, Error> {
    let loaded = read_or_empty("/proc/filesystems")?
        .lines()
        .any(|line| line.trim() == "btrfs");
    let modules = Path::new("/lib/modules").join(release);
    let loadable = || -> Result<bool, Error> {
        Ok(read_or_empty(modules.join("modules.dep"))?.contains("/btrfs.ko"))
    };
    Ok((loaded || loadable()?) && Path::new("/dev/loop-control").exists())
}

/// Free bytes on the file system of `path` or its nearest existing parent.
pub fn free_disk(path: &Path) -> Result<u64, Error> {
    let mut dir = path;
    loop {
        match rustix::fs::statvfs(dir) {
            Ok(stat) => return Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(rustix::io::Errno::NOENT) if dir.parent().is_some() => {
                dir = dir.parent().unwrap_or(Path::new("/"));
            }
            Err(error) => {
                return Err(Error::file(
                    "cannot read the free space of",
                    dir,
                    error.into(),
                ));
            }
        }
    }
}

/// Returns a hash of the machine id, or of the hostname without a machine id.
fn seed() -> Result<u64, Error> {
    let id = match read("/etc/machine-id")? {
        Some(id) if !id.trim().is_empty() => id,
        _ => read_or_empty("/proc/sys/kernel/hostname")?,
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, id.trim().as_bytes());
    let mut first = [0u8; 4];
    first.copy_from_slice(&digest.as_ref()[..4]);
    Ok(u64::from(u32::from_le_bytes(first)))
}

/// Returns the paths in a directory. Empty if the directory does not exist.
fn entries(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>, Error> {
    let dir = dir.as_ref();
    let failed = |e: io::Error| Error::file("cannot read", dir, e);
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|e| e.map(|e| e.path()).map_err(failed))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_daemon_excludes_helper_processes() {
        assert!(is_daemon(
            b"/usr/libexec/incus/incusd\0--group\0incus-admin\0"
        ));
        assert!(is_daemon(b"incusd\0"));
        assert!(!is_daemon(b"/usr/libexec/incus/incusd\0forkproxy\0--\0"));
        assert!(!is_daemon(b"incusd\0waitready\0--timeout=60\0"));
        assert_eq!(
            state_dir(b"HOME=/root\0INCUS_DIR=/srv/i\0"),
            Path::new("/srv/i")
        );
        assert_eq!(state_dir(b"HOME=/root\0"), Path::new(INCUS_DIR));
    }

    #[test]
    fn free_disk_of_missing_path_is_that_of_its_parent() {
        let root = free_disk(Path::new("/nonexistent/a/b")).unwrap();
        assert!(root > 0);
    }

    #[tokio::test]
    async fn local_reads_this_machine() {
        let facts = local(Path::new("/nonexistent/incus")).await.unwrap();
        assert_eq!(facts.daemon_pid, None);
        assert!(!facts.machine.is_empty());
    }
}
