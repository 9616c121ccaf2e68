//! Processes that stay: lxcfs and the daemon where no service manager runs
//! them, and the wait until the daemon answers.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Child;

use super::command::CommandLine;
use super::error::Error;
use super::read_file::{read_or_empty, tail};
use crate::backend::incus::Client;

/// A daemon with many instances takes its time to look after them.
const READY: Duration = Duration::from_secs(120);
const MOUNTED: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const LOG_LINES: usize = 20;

/// Starts a process in a session of its own. It outlives us.
fn spawn(command: &CommandLine, log: &Path) -> Result<Child, Error> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::file("cannot make", dir, e))?;
    }
    let open = || {
        let file = File::options().create(true).append(true).open(log);
        file.map_err(|e| Error::file("cannot open", log, e))
    };
    let mut prepared = command.prepare();
    prepared.stdout(open()?).stderr(open()?);
    prepared.spawn().map_err(|source| Error::Io {
        doing: format!("cannot run `{command}`"),
        source,
    })
}

/// Starts lxcfs and waits until its file system is there.
pub async fn start_lxcfs(step: &str, command: &CommandLine, log: &Path) -> Result<(), Error> {
    if let Some(dir) = command.args.last().map(Path::new) {
        fs::create_dir_all(dir).map_err(|e| Error::file("cannot make", dir, e))?;
    }
    let mut child = spawn(command, log)?;
    let until = Instant::now() + MOUNTED;
    loop {
        if read_or_empty("/proc/self/mountinfo")?.contains(" - fuse.lxcfs ") {
            return Ok(());
        }
        still_runs(step, &mut child, log)?;
        if Instant::now() > until {
            return Err(Error::Daemon {
                step: step.to_owned(),
                reason: format!("no mount after {} s", MOUNTED.as_secs()),
                output: tail(log, LOG_LINES),
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Starts the daemon and waits until it is ready.
pub async fn start(
    step: &str,
    client: &Client,
    command: &CommandLine,
    log: &Path,
) -> Result<(), Error> {
    let mut child = spawn(command, log)?;
    ready(step, client, log, &mut || still_runs(step, &mut child, log)).await
}

/// Waits for a daemon somebody else has started.
pub async fn wait(step: &str, client: &Client, pid: u32) -> Result<(), Error> {
    let process = format!("/proc/{pid}");
    ready(step, client, Path::new(""), &mut || {
        if Path::new(&process).exists() {
            return Ok(());
        }
        Err(Error::Daemon {
            step: step.to_owned(),
            reason: format!("process {pid} has ended"),
            output: Vec::new(),
        })
    })
    .await
}

async fn ready(
    step: &str,
    client: &Client,
    log: &Path,
    alive: &mut (dyn FnMut() -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let until = Instant::now() + READY;
    loop {
        let silence = match client.get::<serde_json::Value>("/internal/ready").await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        alive()?;
        if Instant::now() > until {
            return Err(Error::Daemon {
                step: step.to_owned(),
                reason: format!("not ready after {} s: {silence}", READY.as_secs()),
                output: tail(log, LOG_LINES),
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn still_runs(step: &str, child: &mut Child, log: &Path) -> Result<(), Error> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(Error::Daemon {
            step: step.to_owned(),
            reason: format!("it ended at once ({status})"),
            output: tail(log, LOG_LINES),
        }),
        Err(source) => Err(Error::Io {
            doing: format!("{step}: cannot ask after the process"),
            source,
        }),
    }
}
