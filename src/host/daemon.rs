//! Starts lxcfs and the Incus daemon on hosts without a service manager, and
//! waits until they are ready.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Child;

use super::command::CommandLine;
use super::error::Error;
use super::read_file::{read_or_empty, tail};
use crate::backend::incus::Client;

/// Time limit. A daemon checks all of its instances before it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const MOUNT_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const LOG_LINES: usize = 20;

/// Starts a process that keeps running after pixels exits, and appends its
/// output to `log`.
fn spawn(command: &CommandLine, log: &Path) -> Result<Child, Error> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::file("cannot create", dir, e))?;
    }
    let open = || {
        let file = File::options().create(true).append(true).open(log);
        file.map_err(|e| Error::file("cannot open", log, e))
    };
    let mut spawned = command.to_command();
    spawned.stdout(open()?).stderr(open()?);
    spawned
        .spawn()
        .map_err(|source| Error::io(format!("cannot run `{command}`"), source))
}

/// Starts lxcfs and waits until its file system is mounted. Fails with
/// [`Error::Daemon`] if lxcfs exits or does not mount within 15 s.
pub async fn start_lxcfs(step: &str, command: &CommandLine, log: &Path) -> Result<(), Error> {
    if let Some(dir) = command.args.last().map(Path::new) {
        fs::create_dir_all(dir).map_err(|e| Error::file("cannot create", dir, e))?;
    }
    let mut child = spawn(command, log)?;
    let deadline = Instant::now() + MOUNT_TIMEOUT;
    loop {
        if read_or_empty("/proc/self/mountinfo")?.contains(" - fuse.lxcfs ") {
            return Ok(());
        }
        check_running(step, &mut child, log)?;
        if Instant::now() > deadline {
            let reason = format!("no mount after {} s", MOUNT_TIMEOUT.as_secs());
            return Err(daemon_error(step, reason, log));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Starts the Incus daemon and waits until it is ready. Fails with
/// [`Error::Daemon`] if the daemon exits or is not ready within 120 s.
pub async fn start(
    step: &str,
    client: &Client,
    command: &CommandLine,
    log: &Path,
) -> Result<(), Error> {
    let mut child = spawn(command, log)?;
    let mut check = || check_running(step, &mut child, log);
    wait_until_ready(step, client, log, &mut check).await
}

/// Waits until the running daemon with this process id is ready. Fails like
/// [`start`].
pub async fn wait(step: &str, client: &Client, pid: u32) -> Result<(), Error> {
    let process = format!("/proc/{pid}");
    let no_log = Path::new("");
    let mut check = || {
        if Path::new(&process).exists() {
            return Ok(());
        }
        Err(daemon_error(
            step,
            format!("process {pid} has exited"),
            no_log,
        ))
    };
    wait_until_ready(step, client, no_log, &mut check).await
}

async fn wait_until_ready(
    step: &str,
    client: &Client,
    log: &Path,
    check_running: &mut (dyn FnMut() -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let answer = client.get::<serde_json::Value>("/internal/ready").await;
        let Err(cause) = answer else {
            return Ok(());
        };
        check_running()?;
        if Instant::now() > deadline {
            let reason = format!("not ready after {} s: {cause}", READY_TIMEOUT.as_secs());
            return Err(daemon_error(step, reason, log));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn check_running(step: &str, child: &mut Child, log: &Path) -> Result<(), Error> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(daemon_error(
            step,
            format!("the process exited at once ({status})"),
            log,
        )),
        Err(source) => Err(Error::io(
            format!("cannot {step}: cannot read the state of the process"),
            source,
        )),
    }
}

fn daemon_error(step: &str, reason: String, log: &Path) -> Error {
    Error::Daemon {
        step: step.to_owned(),
        reason,
        output: tail(log, LOG_LINES),
    }
}
