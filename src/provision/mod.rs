//! Provisioning: converts settings to a plan of files and steps, and applies
//! the plan to a running pixel. Independent of backends and the settings file.

mod environment;
mod options;
mod plan;
mod status;

#[cfg(test)]
mod fuzz;

use std::collections::BTreeSet;

use crate::model::{Error, ExecIo, ExecRequest, Guest, Ids, Output, Result, UserGuest};

pub use options::{Devtools, Options, Sessions};
pub use plan::{Plan, Step, plan};
pub use status::{Overall, Report, StepState, StepStatus};

/// The default user of a provisioned pixel.
pub const USER: &str = "pixel";

/// An apt-get wrapper for scripts in a pixel. It waits for locks and retries.
pub const APT: &str = include_str!("guest/apt.sh");
/// Path of the installed wrapper.
pub const APT_PATH: &str = "/usr/local/lib/pixels/apt";

/// Applies a plan to a running pixel and starts its steps. Does not wait for
/// the steps. Idempotent, except that failed and changed steps run again.
/// `user_guest` writes the files of [`USER`] with the rights of that user.
///
/// Fails with `Error::Unsupported` if the image cannot be provisioned.
pub async fn apply(guest: &dyn Guest, user_guest: &UserGuest<'_>, plan: &Plan) -> Result<()> {
    let output = run(guest, "user", include_str!("guest/user.sh")).await?;
    if matches!(output.status.0, 90..=92) {
        return Err(Error::Unsupported {
            operation: "provisioning this image".into(),
            reason: format!(
                "{}; use --no-provision to create the pixel without provisioning",
                String::from_utf8_lossy(&output.stderr).trim()
            )
            .into(),
        });
    }
    output.into_text("creation of the user")?;
    let (root_files, user_files): (Vec<_>, Vec<_>) =
        plan.files.iter().partition(|file| file.owner == Ids::ROOT);
    // Create outer directories first.
    let mut dirs = BTreeSet::new();
    for file in &root_files {
        let ends = file.path.match_indices('/').skip(1);
        dirs.extend(ends.map(|(at, _)| &file.path[..at]));
    }
    for dir in dirs {
        guest.make_dir(dir).await?;
    }
    for file in root_files {
        guest.write_file(file).await?;
    }
    for file in user_files {
        let (dir, _) = file.path.rsplit_once('/').unwrap_or_default();
        user_guest.make_dir(dir).await?;
        user_guest.write_file(file).await?;
    }
    let output = run(guest, "install", include_str!("guest/install.sh")).await?;
    output
        .into_text("start of the provisioning steps")
        .map(drop)
}

/// Reads the state of all steps. Works even while the pixel boots.
pub async fn status(guest: &dyn Guest) -> Result<Report> {
    let output = run(guest, "status", include_str!("guest/status.sh")).await?;
    let text = output.into_text("status of the provisioning steps")?;
    Ok(status::parse(&text))
}

/// Returns the last `lines` output lines of a step.
pub async fn log_tail(guest: &dyn Guest, step: &StepStatus, lines: u32) -> Result<String> {
    let request = ExecRequest::root(["tail", "-n", &lines.to_string(), &step.log]);
    let output = guest.output(&request).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Streams the output of all steps to `to` until all steps have finished.
pub async fn follow(
    guest: &dyn Guest,
    to: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
) -> Result<()> {
    let script = include_str!("guest/follow.sh");
    let (_controls, control) = tokio::sync::mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(tokio::io::empty()),
        stdout: to,
        stderr: Box::new(tokio::io::sink()),
        control,
    };
    let request = ExecRequest::root(["/bin/sh", "-c", script, "follow"]);
    guest.exec(&request, io).await.map(drop)
}

async fn run(guest: &dyn Guest, name: &str, script: &str) -> Result<Output> {
    guest
        .output(&ExecRequest::root(["/bin/sh", "-c", script, name]))
        .await
}
