//! Makes a new pixel ready to work in: a pure plan (settings to files and
//! steps) and a thin apply over `Guest`. Knows no backend and no settings file.

mod environment;
mod options;
mod plan;
mod status;

#[cfg(test)]
#[path = "../../tests/fuzz/provision.rs"]
mod fuzz;

use std::collections::BTreeSet;

use crate::model::{Error, ExecIo, ExecRequest, Guest, Output, Result};

pub use options::{Devtools, Options, Sessions};
pub use plan::{Plan, Step, plan};
pub use status::{Overall, Report, State, Step as StepStatus};

/// The user a provisioned pixel's commands run as.
pub const USER: &str = "pixel";

/// An apt-get that waits and tries again, as a program for scripts in a pixel.
pub const APT: &str = include_str!("guest/apt.sh");
/// Where scripts find it.
pub const APT_PATH: &str = "/usr/local/lib/pixels/apt";

/// Puts the plan into a running pixel and starts its steps; returns without
/// waiting for them. Repeating it changes nothing, but runs steps again that
/// failed or changed.
///
/// What the image lacks is `Error::Unsupported`.
pub async fn apply(guest: &dyn Guest, plan: &Plan) -> Result<()> {
    let output = run(guest, "user", include_str!("guest/user.sh")).await?;
    if matches!(output.status.0, 90..=92) {
        return Err(Error::Unsupported {
            operation: "provisioning this image".into(),
            reason: format!(
                "{}; --no-provision leaves a pixel as the image made it",
                String::from_utf8_lossy(&output.stderr).trim()
            )
            .into(),
        });
    }
    checked("making the user", output)?;
    for dir in directories(plan) {
        guest.make_dir(&dir).await?;
    }
    for file in &plan.files {
        guest.write_file(file).await?;
    }
    let output = run(guest, "begin", include_str!("guest/begin.sh")).await?;
    checked("starting the steps", output)
}

/// How far the steps are; works while the pixel boots.
pub async fn status(guest: &dyn Guest) -> Result<Report> {
    let output = run(guest, "status", include_str!("guest/status.sh")).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    checked("asking for the steps", output)?;
    Ok(status::parse(&text))
}

/// The last `lines` lines a step has written.
pub async fn log_tail(guest: &dyn Guest, step: &StepStatus, lines: u32) -> Result<String> {
    let request = ExecRequest::root(["tail", "-n", &lines.to_string(), &step.log]);
    let output = guest.output(&request).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Streams the output of all steps until there is no more to come.
pub async fn follow(
    guest: &dyn Guest,
    to: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
) -> Result<()> {
    let script = include_str!("guest/follow.sh");
    let (_steer, control) = tokio::sync::mpsc::channel(1);
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

fn checked(doing: &str, output: Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Guest {
        command: doing.to_owned(),
        status: output.status.0,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// The parents of all files, outer ones first.
fn directories(plan: &Plan) -> BTreeSet<String> {
    let mut dirs = BTreeSet::new();
    for file in &plan.files {
        for (at, _) in file.path.match_indices('/').skip(1) {
            dirs.insert(file.path[..at].to_owned());
        }
    }
    dirs
}
