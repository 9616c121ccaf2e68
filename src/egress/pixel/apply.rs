//! Adds a policy to a running or stopped pixel, and removes it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::files::{self, CODE, Files, OPEN_SUDO, STATE, SUDO, SUDOERS};
use crate::egress::script;
use crate::model::{ExecRequest, Guest, GuestFile, Output, Result};

/// File with the version of the files that systemd has loaded.
const LOADED_VERSION: &str = "/run/pixels/egress-version";
const VERSION_LIMIT: u64 = 1024;
const PROGRAMS: [&str; 2] = ["/usr/sbin/nft", "/usr/sbin/dnsmasq"];

/// Whether the programs that enforce a policy are installed. [`enforce`] can
/// install them in a running pixel.
pub async fn has_packages(guest: &dyn Guest) -> Result<bool> {
    for program in PROGRAMS {
        match guest.stat(program).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Writes a policy into a stopped pixel for which [`has_packages`] is true. The
/// next boot applies the policy before the network starts. A second call
/// replaces the policy.
pub async fn write(guest: &dyn Guest, files: &Files) -> Result<()> {
    write_common(guest, Overwrite::Always).await?;
    for file in files.variable_files(STATE) {
        guest.write_file(&file).await?;
    }
    guest.make_dir("/etc/sudoers.d").await?;
    guest
        .write_file(&GuestFile::root(SUDOERS, 0o440, SUDO))
        .await
}

/// Removes the policy from a stopped pixel.
pub async fn remove(guest: &dyn Guest) -> Result<()> {
    for path in files::paths() {
        guest.remove_file(&path).await?;
    }
    match guest.stat(SUDOERS).await {
        Ok(_) => {
            guest
                .write_file(&GuestFile::root(SUDOERS, 0o440, OPEN_SUDO))
                .await
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Applies a policy to a running pixel, now and at every boot. Installs missing
/// packages. After a failure, the previous policy remains applied. Fails with
/// `Error::Unsupported` if the image cannot install the packages.
pub async fn enforce(guest: &dyn Guest, files: &Files) -> Result<()> {
    write_common(guest, Overwrite::IfOutdated).await?;
    let mut output = apply(guest, files).await?;
    if !output.status.success() && !script::cannot_install(&output) {
        // Users may have deleted or changed files inside the pixel.
        write_common(guest, Overwrite::Always).await?;
        guest.remove_file(LOADED_VERSION).await?;
        output = apply(guest, files).await?;
    }
    let unsupported = "a restricted policy inside this pixel";
    script::check("applying the policy", unsupported, &output)
}

async fn apply(guest: &dyn Guest, files: &Files) -> Result<Output> {
    // Concurrent callers need separate directories.
    let dir = format!("{STATE}/new-{:016x}", RandomState::new().hash_one(()));
    guest.make_dir(&dir).await?;
    for file in files.variable_files(&dir) {
        guest.write_file(&file).await?;
    }
    run(guest, "apply", &[&dir, &files.id]).await
}

/// Removes the policy from a running pixel.
pub async fn remove_running(guest: &dyn Guest) -> Result<()> {
    // The script may be missing, or from another version of pixels.
    write_common(guest, Overwrite::IfOutdated).await?;
    let output = run(guest, "remove", &[]).await?;
    script::check("removing the policy", "removing the policy", &output)
}

/// Whether a running pixel has applied exactly this policy.
pub async fn is_in_force(guest: &dyn Guest, files: &Files) -> Result<bool> {
    Ok(run(guest, "check", &[&files.id]).await?.status.success())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Overwrite {
    Always,
    /// Only if the version differs: another caller may be using the files.
    IfOutdated,
}

/// Writes the files that do not depend on the policy.
async fn write_common(guest: &dyn Guest, overwrite: Overwrite) -> Result<()> {
    let (common, links) = (files::common(), files::links());
    let paths = common.iter().map(|file| &file.path);
    let paths = paths.chain(links.iter().map(|(link, _)| link));
    let parents = paths.filter_map(|path| Some(path.rsplit_once('/')?.0));
    let mut dirs = vec!["/usr/local/lib/pixels", "/var/lib/pixels", STATE];
    for dir in parents {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    for dir in dirs {
        guest.make_dir(dir).await?;
    }
    let version = files::version();
    let is_current = match guest.read_file(&version.path, VERSION_LIMIT).await {
        Ok(content) => content == version.content,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error),
    };
    if overwrite == Overwrite::Always || !is_current {
        for file in common.iter().chain([&version]) {
            guest.write_file(file).await?;
        }
    }
    for (link, target) in &links {
        guest.symlink(link, target).await?;
    }
    Ok(())
}

pub(super) async fn run(guest: &dyn Guest, script: &str, args: &[&str]) -> Result<Output> {
    let path = format!("{CODE}/{script}");
    let argv = std::iter::once(path.as_str()).chain(args.iter().copied());
    guest.output(&ExecRequest::root(argv)).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::egress::{Mode, Policy, presets};
    use crate::model::fake::FakeBackend;
    use crate::model::{Backend, FileKind, Ids, Status};

    fn policy(mode: Mode, allow: &[&str]) -> Files {
        let rules = allow.iter().map(|rule| rule.parse().unwrap());
        Files::new(&Policy::new(mode, rules).resolve(presets()), &[])
    }

    /// The paths of all calls with one of these verbs.
    fn paths(calls: &[String], verbs: &[&str]) -> BTreeSet<String> {
        let parts = calls.iter().map(|call| call.splitn(3, ' ').collect());
        let matching = parts.filter(|parts: &Vec<&str>| verbs.contains(&parts[0]));
        matching.map(|parts| parts[2].to_owned()).collect()
    }

    #[tokio::test]
    async fn policy_removal_deletes_all_written_files() {
        let backend = FakeBackend::with_pixels(["a"]);
        backend.edit("a", |instance| instance.status = Status::Stopped);
        // Directories that every image has.
        for directory in ["/etc/systemd/system", "/usr/local/bin", "/usr/local/lib"] {
            backend.put_file("a", &format!("{directory}/any"), "");
        }
        let name = "a".parse().unwrap();
        let guest = backend.guest(&name);
        let guest = guest.as_ref();
        assert!(!has_packages(guest).await.unwrap());
        for program in PROGRAMS {
            backend.put_file("a", program, "");
        }
        assert!(has_packages(guest).await.unwrap());

        backend.take_calls();
        write(guest, &policy(Mode::Agent, &["*.example.org:443"]))
            .await
            .unwrap();
        let sudo = || String::from_utf8(backend.file("a", SUDOERS).unwrap()).unwrap();
        assert!(!sudo().contains("NOPASSWD: ALL"));
        let mut written = paths(&backend.take_calls(), &["write_file", "symlink"]);
        write(guest, &policy(Mode::Allowlist, &[])).await.unwrap();
        let calls = backend.take_calls();
        assert_eq!(paths(&calls, &["write_file", "symlink"]), written);
        for path in &written {
            let stat = guest.stat(path).await.unwrap();
            assert_eq!(stat.owner, Ids::ROOT, "{path}");
            if stat.kind == FileKind::Symlink {
                let target = guest.read_link(path).await.unwrap();
                assert!(written.contains(&target), "{path}");
            }
        }

        backend.take_calls();
        remove(guest).await.unwrap();
        assert!(sudo().contains("NOPASSWD: ALL"));
        assert!(written.remove(SUDOERS));
        assert_eq!(paths(&backend.take_calls(), &["remove_file"]), written);
        // A repeated removal, and a removal without a policy, succeed.
        remove(guest).await.unwrap();
        let fresh = FakeBackend::with_pixels(["a"]);
        remove(fresh.guest(&name).as_ref()).await.unwrap();
    }
}
