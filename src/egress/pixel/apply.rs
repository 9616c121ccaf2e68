//! A policy put into a pixel, running or stopped, and taken out again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::files::{self, CODE, Files, OPEN_SUDO, STATE, SUDO, SUDOERS, text};
use crate::model::{Error, ExecRequest, Guest, Output, Result};

/// Which version of the files the running machine has read.
const KNOWN: &str = "/run/pixels/egress-version";
const VERSION_LIMIT: u64 = 1024;
/// The image can never enforce a policy.
const LACKING: i32 = 90;
/// What both halves of a policy need to run.
const PROGRAMS: [&str; 2] = ["/usr/sbin/nft", "/usr/sbin/dnsmasq"];

/// Whether everything is there that a policy needs. A pixel where it is not
/// has to run for it to be installed.
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

/// Writes a policy into a stopped pixel that [`is_able`]: it is in force from
/// the next boot on, before the network is up. Repeating it, or the same with
/// another policy, is harmless.
pub async fn write(guest: &dyn Guest, files: &Files) -> Result<()> {
    machinery(guest, true).await?;
    for file in files.of_policy(STATE) {
        guest.write_file(&file).await?;
    }
    guest.make_dir("/etc/sudoers.d").await?;
    guest.write_file(&text(SUDOERS.into(), 0o440, SUDO)).await
}

/// Takes the policy out of a stopped pixel.
pub async fn remove(guest: &dyn Guest) -> Result<()> {
    for path in files::all() {
        guest.remove_file(&path).await?;
    }
    match guest.stat(SUDOERS).await {
        Ok(_) => {
            guest
                .write_file(&text(SUDOERS.into(), 0o440, OPEN_SUDO))
                .await
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a policy into force on a running pixel, at once and for every boot.
/// When that fails, what was in force before is again. What is missing is
/// installed; an image that has no way to is `Error::Unsupported`.
pub async fn enforce(guest: &dyn Guest, files: &Files) -> Result<()> {
    machinery(guest, false).await?;
    let mut output = apply(guest, files).await?;
    if !output.status.success() && output.status.0 != LACKING {
        // Somebody may have taken parts of it away.
        machinery(guest, true).await?;
        guest.remove_file(KNOWN).await?;
        output = apply(guest, files).await?;
    }
    if output.status.0 == LACKING {
        return Err(Error::Unsupported {
            operation: "a restricted policy inside this pixel".into(),
            reason: output_text(&output).into(),
        });
    }
    checked("putting the policy into force", &output)
}

async fn apply(guest: &dyn Guest, files: &Files) -> Result<Output> {
    // Of several callers at once, each brings its own.
    let waiting = format!("{STATE}/new-{:016x}", RandomState::new().hash_one(()));
    guest.make_dir(&waiting).await?;
    for file in files.of_policy(&waiting) {
        guest.write_file(&file).await?;
    }
    run(guest, "apply", &[&waiting, &files.id]).await
}

/// Takes the policy out of a running pixel.
pub async fn remove_running(guest: &dyn Guest) -> Result<()> {
    // A pixel without it may have been made by hand, or halfway.
    machinery(guest, false).await?;
    let output = run(guest, "lift", &[]).await?;
    checked("taking the policy out of force", &output)
}

/// Whether exactly this policy is loaded in a running pixel.
pub async fn is_in_force(guest: &dyn Guest, files: &Files) -> Result<bool> {
    Ok(run(guest, "check", &[&files.id]).await?.status.success())
}

/// `anew`: also what seems to be there.
async fn machinery(guest: &dyn Guest, anew: bool) -> Result<()> {
    let (machinery, links) = (files::machinery(), files::links());
    let mut dirs = vec![STATE.to_owned()];
    for path in machinery
        .iter()
        .map(|file| &file.path)
        .chain(links.iter().map(|(link, _)| link))
    {
        if let Some((dir, _)) = path.rsplit_once('/')
            && !dirs.iter().any(|have| have == dir)
        {
            dirs.push(dir.to_owned());
        }
    }
    for dir in ["/usr/local/lib/pixels", "/var/lib/pixels"] {
        guest.make_dir(dir).await?;
    }
    for dir in dirs {
        guest.make_dir(&dir).await?;
    }
    let version = files::version();
    // What is there may be in use by another caller just now.
    let there = match guest.read_file(&version.path, VERSION_LIMIT).await {
        Ok(content) => content == version.content,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error),
    };
    if anew || !there {
        for file in machinery.into_iter().chain([version]) {
            guest.write_file(&file).await?;
        }
    }
    for (link, target) in links {
        guest.symlink(&link, &target).await?;
    }
    Ok(())
}

async fn run(guest: &dyn Guest, script: &str, args: &[&str]) -> Result<Output> {
    let path = format!("{CODE}/{script}");
    let argv = std::iter::once(path.as_str()).chain(args.iter().copied());
    guest.output(&ExecRequest::root(argv)).await
}

/// The last lines of what a script complained of.
fn output_text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = stderr.trim().lines().rev().take(5).collect();
    last.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn checked(doing: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Guest {
        command: doing.to_owned(),
        status: output.status.0,
        stderr: output_text(output),
    })
}
