//! Commands that outlive their call, and this server: they run by themselves
//! inside the sandbox, with their output in files there.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;

use super::error::{Error, Result};
use super::exec::Command;
use super::service::{Service, not_running};
use super::state::Status;
use super::truncate::unfinished;
use crate::lifecycle::{self, EXEC_ID, User};
use crate::model::{ExecRequest, Guest, Name};

/// Of each stream in one answer.
const CHUNK: u64 = 64 * 1024;
const STARTING: Duration = Duration::from_secs(30);
/// The longest wait for news in one call.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// For a job that was killed to be seen as such.
const ENDING: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    /// By itself; exit_code says how.
    Exited,
    /// By exec_kill.
    Killed,
    /// Gone without an exit code: the sandbox was stopped or restored, or
    /// something in it killed the job.
    Lost,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Progress {
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What it has printed from the given offset on.
    pub stdout: String,
    pub stderr: String,
    /// Give these to the next exec_poll to go on where this one ended.
    pub stdout_offset: u64,
    pub stderr_offset: u64,
    /// There is more output already: poll again at once.
    pub more: bool,
}

/// Where a client has read to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offsets {
    pub stdout: u64,
    pub stderr: u64,
}

impl Service {
    /// Starts a command that goes on by itself, and returns its id.
    pub async fn exec_start(&self, name: &str, mut command: Command) -> Result<String> {
        command.check()?;
        let (record, pixel, _shared) = self.lock_for_use(name).await?;
        if record.status != Status::Running {
            return Err(not_running(&record));
        }
        self.touch(name);
        let mut random = [0; 4];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| Error::invalid("no random numbers on this machine"))?;
        let id = format!("job-{:08x}", u32::from_ne_bytes(random));
        let login = self.login(&pixel).await?;
        let script = include_str!("guest/job.sh");
        let mut argv = ["/bin/sh", "-c", script, "job"].map(str::to_owned).to_vec();
        argv.push(folder(&login, &id));
        argv.append(&mut command.argv);
        command.argv = argv;
        // All of its processes are known by it, here and in exec_kill.
        command.env.insert(EXEC_ID.to_owned(), id.clone());
        let request = command.exec(login, Some(STARTING));
        let guest = self.backend.guest(&pixel);
        let errors = super::truncate::HeadTail::default();
        let (_signals, events) = mpsc::channel(1);
        let status = lifecycle::exec(
            &*guest,
            &request,
            None,
            (
                Box::new(tokio::io::empty()),
                Box::new(tokio::io::sink()),
                Box::new(errors.clone()),
            ),
            lifecycle::SignalSource { events },
        )
        .await?
        .status;
        if !status.success() {
            return Err(Error::invalid(format!(
                "the job could not be started (exit code {}): {}",
                status.0,
                errors.take().text.trim()
            )));
        }
        Ok(id)
    }

    /// How a job is and what it has printed; waits up to `wait` for news.
    pub async fn exec_poll(
        &self,
        name: &str,
        job: &str,
        from: Offsets,
        wait: Duration,
    ) -> Result<Progress> {
        let (record, pixel, _shared) = self.lock_for_use(name).await?;
        if record.status != Status::Running {
            return Err(not_running(&record));
        }
        self.touch(name);
        let login = self.login(&pixel).await?;
        let guest = self.backend.guest(&pixel);
        poll(&*guest, &login, checked(job)?, from, wait.min(PATIENCE)).await
    }

    /// Ends a job and everything it has started.
    pub async fn exec_kill(&self, name: &str, job: &str) -> Result<Progress> {
        let job = checked(job)?;
        let (record, pixel, _shared) = self.lock_for_use(name).await?;
        if record.status != Status::Running {
            return Err(not_running(&record));
        }
        self.touch(name);
        let login = self.login(&pixel).await?;
        let guest = self.backend.guest(&pixel);
        let start = Offsets::default();
        let before = poll(&*guest, &login, job, start, Duration::ZERO).await?;
        if before.state != State::Running {
            return Ok(before);
        }
        self.mark_killed(&*guest, &login, job, &pixel).await?;
        lifecycle::end(&*guest, job).await;
        poll(&*guest, &login, job, start, ENDING).await
    }

    async fn mark_killed(
        &self,
        guest: &dyn Guest,
        login: &User,
        job: &str,
        pixel: &Name,
    ) -> Result<()> {
        let mark = format!("{}/killed", folder(login, job));
        let output = guest
            .output(&ExecRequest::root(["touch", "--", &mark]))
            .await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::debug!(sandbox = pixel.as_str(), job, %said, "marking a job");
        }
        Ok(())
    }
}

/// Outside /tmp: it is there after a restart of the sandbox.
fn folder(login: &User, id: &str) -> String {
    format!("{}/.local/state/pixels/jobs/{id}", login.home)
}

/// The id becomes part of a path.
pub(super) fn checked(job: &str) -> Result<&str> {
    let rest = job.strip_prefix("job-").unwrap_or_default();
    if rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(job);
    }
    Err(unknown(job))
}

fn unknown(job: &str) -> Error {
    Error::invalid(format!(
        "there is no job {job:?} in this sandbox; exec_start returns the id of one"
    ))
}

async fn poll(
    guest: &dyn Guest,
    login: &User,
    job: &str,
    from: Offsets,
    wait: Duration,
) -> Result<Progress> {
    let script = include_str!("guest/job-poll.sh");
    let dir = folder(login, job);
    let numbers = [
        from.stdout,
        from.stderr,
        CHUNK,
        u64::try_from(wait.as_millis() / 100).unwrap_or(0),
    ];
    let numbers = numbers.map(|number| number.to_string());
    let mut argv = vec!["/bin/sh", "-c", script, "job-poll", &dir, job];
    argv.extend(numbers.iter().map(String::as_str));
    let output = guest.output(&ExecRequest::root(argv)).await?;
    match output.status.0 {
        0 => {}
        3 => return Err(unknown(job)),
        status => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(Error::invalid(format!(
                "asking for the job failed with exit code {status}: {}",
                stderr.trim()
            )));
        }
    }
    parse(&output.stdout, from).ok_or_else(|| {
        Error::invalid("the sandbox gave an answer about the job that makes no sense")
    })
}

/// Reads what `job-poll.sh` prints.
pub(super) fn parse(answer: &[u8], from: Offsets) -> Option<Progress> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut words = head.split(' ');
    let state = match words.next()? {
        "running" => State::Running,
        "exited" => State::Exited,
        "killed" => State::Killed,
        "lost" => State::Lost,
        _ => return None,
    };
    let exit_code = words.next()?.parse().ok();
    let length: usize = words.next()?.parse().ok()?;
    let body = &answer[end + 1..];
    let (stdout, stderr) = body.split_at_checked(length)?;
    // Not the script's: root in the sandbox has made it up.
    if stdout.len() as u64 > CHUNK || stderr.len() as u64 > CHUNK {
        return None;
    }
    let full = |part: &[u8]| part.len() as u64 == CHUNK;
    let more = full(stdout) || full(stderr);
    // What is cut within a character is read whole the next time.
    let cut = |part: &[u8]| match state == State::Running || full(part) {
        true => part.len() - unfinished(part),
        false => part.len(),
    };
    let (stdout, stderr) = (&stdout[..cut(stdout)], &stderr[..cut(stderr)]);
    Some(Progress {
        state,
        exit_code,
        stdout: String::from_utf8_lossy(stdout).into_owned(),
        stderr: String::from_utf8_lossy(stderr).into_owned(),
        stdout_offset: from.stdout.saturating_add(stdout.len() as u64),
        stderr_offset: from.stderr.saturating_add(stderr.len() as u64),
        more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart_and_offsets_go_on() {
        let from = Offsets {
            stdout: 10,
            stderr: 0,
        };
        let answer = "running - 3 2\noné".as_bytes();
        let cut = &answer[..answer.len() - 1];
        // One byte of é is still to come, and belongs to nobody's stderr.
        let progress = parse(&cut[..cut.len()], from).unwrap();
        assert_eq!(progress.state, State::Running);
        assert_eq!(
            (progress.stdout.as_str(), progress.stdout_offset),
            ("on", 12)
        );
        let done = parse(b"exited 7 3 2\noutno", from).unwrap();
        assert_eq!((done.state, done.exit_code), (State::Exited, Some(7)));
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out", "no"));
        assert_eq!((done.stdout_offset, done.stderr_offset), (13, 2));
        assert!(!done.more);
        for bad in ["", "x", "asleep - 0 0\n", "exited 0 5 0\nab"] {
            assert!(parse(bad.as_bytes(), from).is_none(), "{bad}");
        }
        let most = "x".repeat(CHUNK as usize);
        for (streams, sound) in [
            (format!("exited 0 {CHUNK} {CHUNK}\n{most}{most}"), true),
            (format!("exited 0 {} 0\n{most}x", CHUNK + 1), false),
            (format!("exited 0 0 {}\n{most}x", CHUNK + 1), false),
        ] {
            assert_eq!(parse(streams.as_bytes(), from).is_some(), sound);
        }
    }

    #[test]
    fn only_ids_of_jobs_are_taken() {
        assert!(checked("job-0123abcd").is_ok());
        for bad in ["", "job-", "job-../../x", "0123abcd", "job-0123abcg"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
