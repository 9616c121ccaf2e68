//! Jobs: commands that run in the background in a sandbox and survive the call
//! and this server. Files in the sandbox contain their output.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::error::{Error, Result};
use super::exec::{Command, StartArgs};
use super::service::Service;
use super::truncate::{self, CHUNK, Truncated};
use crate::lifecycle::{self, EXEC_ID, User};
use crate::model::{ExecRequest, Guest, incomplete_end, random_hex};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_POLL_WAIT: Duration = Duration::from_secs(60);
/// Time that exec_kill waits for the processes to exit.
const KILL_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollArgs {
    /// Name of the sandbox.
    name: String,
    /// The job_id that exec_start returned.
    job_id: String,
    /// Offset in stdout to continue at; by default the beginning.
    stdout_offset: Option<u64>,
    /// Offset in stderr to continue at; by default the beginning.
    stderr_offset: Option<u64>,
    /// Wait up to this many seconds, at most 60, for new output or the end of the
    /// job.
    wait_sec: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    /// The command ended; see exit_code.
    Exited,
    /// Ended by exec_kill.
    Killed,
    /// Ended without an exit code: the sandbox was stopped or restored, or a
    /// process in it killed the job.
    Lost,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct JobProgress {
    pub state: JobState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Output from the given offset on.
    pub stdout: String,
    pub stderr: String,
    /// Pass both offsets to the next exec_poll to continue reading.
    pub stdout_offset: u64,
    pub stderr_offset: u64,
    /// More output is available: poll again at once.
    pub more: bool,
}

/// Number of bytes of each stream that the client has read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offsets {
    pub stdout: u64,
    pub stderr: u64,
}

impl Service {
    /// Starts a job and returns its id.
    pub async fn exec_start(&self, args: StartArgs) -> Result<String> {
        let mut command = Command::new(args.command, args.cwd, args.env)?;
        let (pixel, user, _guard) = self.lock_running(&args.name).await?;
        let id = format!("job-{}", random_hex(4).map_err(Error::Random)?);
        let script = include_str!("guest/job.sh");
        let mut argv = ["/bin/sh", "-c", script, "job"].map(str::to_owned).to_vec();
        argv.push(job_dir(&user, &id));
        argv.append(&mut command.argv);
        command.argv = argv;
        // The variable identifies all processes of the job.
        command.env.insert(EXEC_ID.to_owned(), id.clone());
        let request = command.into_options(user, START_TIMEOUT);
        let guest = self.backend.guest(&pixel);
        let errors = truncate::capture();
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
            events,
        )
        .await?
        .status;
        if !status.success() {
            return Err(Error::invalid(format!(
                "cannot start the job: exit code {}: {}",
                status.0,
                Truncated::from(errors.take()).text.trim()
            )));
        }
        Ok(id)
    }

    /// Returns the state of a job and its output, starting at the offsets.
    pub async fn exec_poll(&self, args: PollArgs) -> Result<JobProgress> {
        let (pixel, user, _guard) = self.lock_running(&args.name).await?;
        let guest = self.backend.guest(&pixel);
        let job = check_job_id(&args.job_id)?;
        let from = Offsets {
            stdout: args.stdout_offset.unwrap_or(0),
            stderr: args.stderr_offset.unwrap_or(0),
        };
        let wait = Duration::from_secs(args.wait_sec.unwrap_or(0).into());
        poll(&*guest, &user, job, from, wait.min(MAX_POLL_WAIT)).await
    }

    /// Kills all processes of a job.
    pub async fn exec_kill(&self, name: &str, job: &str) -> Result<JobProgress> {
        let job = check_job_id(job)?;
        let (pixel, user, _guard) = self.lock_running(name).await?;
        let guest = self.backend.guest(&pixel);
        let start = Offsets::default();
        let before = poll(&*guest, &user, job, start, Duration::ZERO).await?;
        if before.state != JobState::Running {
            return Ok(before);
        }
        // Without this mark, job-poll.sh reports a killed job as lost.
        let mark = format!("{}/killed", job_dir(&user, job));
        let touch = as_user(&user, &["touch", "--", &mark]);
        let marked = guest.output(&touch).await?;
        if !marked.status.success() {
            let stderr = String::from_utf8_lossy(&marked.stderr);
            tracing::debug!(sandbox = name, job, %stderr, "cannot mark the job as killed");
        }
        lifecycle::terminate(&*guest, job).await;
        poll(&*guest, &user, job, start, KILL_WAIT).await
    }
}

/// Returns the directory of a job, outside /tmp so that it survives a restart.
fn job_dir(user: &User, id: &str) -> String {
    format!("{}/.local/state/pixels/jobs/{id}", user.home)
}

/// Fails unless `job` has the format of an id, because it is used in a path.
pub(super) fn check_job_id(job: &str) -> Result<&str> {
    let rest = job.strip_prefix("job-").unwrap_or_default();
    if rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(job);
    }
    Err(unknown_job(job))
}

fn unknown_job(job: &str) -> Error {
    Error::invalid(format!(
        "no job {job:?} found in this sandbox: pass a job_id that exec_start returned"
    ))
}

/// Returns a request that accesses the files of a job. The user can replace them
/// with links to files that only root can access.
fn as_user(user: &User, argv: &[&str]) -> ExecRequest {
    ExecRequest {
        owner: user.ids,
        ..ExecRequest::root(argv.iter().copied())
    }
}

async fn poll(
    guest: &dyn Guest,
    user: &User,
    job: &str,
    from: Offsets,
    wait: Duration,
) -> Result<JobProgress> {
    let script = include_str!("guest/job-poll.sh");
    let dir = job_dir(user, job);
    let numbers = [
        from.stdout,
        from.stderr,
        CHUNK,
        u64::try_from(wait.as_millis() / 100).unwrap_or(0),
    ];
    let numbers = numbers.map(|number| number.to_string());
    let mut argv = vec!["/bin/sh", "-c", script, "job-poll", &dir, job];
    argv.extend(numbers.iter().map(String::as_str));
    let output = guest.output(&as_user(user, &argv)).await?;
    match output.status.0 {
        0 => {}
        3 => return Err(unknown_job(job)),
        status => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(Error::invalid(format!(
                "cannot read the job status: exit code {status}: {}",
                stderr.trim()
            )));
        }
    }
    parse_progress(&output.stdout, from)
        .ok_or_else(|| Error::invalid("the sandbox returned a malformed job status"))
}

/// Parses the output of `job-poll.sh`.
pub(super) fn parse_progress(output: &[u8], from: Offsets) -> Option<JobProgress> {
    let end = output.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&output[..end]).ok()?;
    let mut words = head.split(' ');
    let state: JobState = serde_json::from_value(words.next()?.into()).ok()?;
    let exit_code = words.next()?.parse().ok();
    let length: usize = words.next()?.parse().ok()?;
    let body = &output[end + 1..];
    let (stdout, stderr) = body.split_at_checked(length)?;
    // Longer output is forged by root in the sandbox: the script prints less.
    if stdout.len() as u64 > CHUNK || stderr.len() as u64 > CHUNK {
        return None;
    }
    let full = |part: &[u8]| part.len() as u64 == CHUNK;
    let more = full(stdout) || full(stderr);
    // Leave an incomplete character at the end for the next poll.
    let cut = |part: &[u8]| match state == JobState::Running || full(part) {
        true => part.len() - incomplete_end(part),
        false => part.len(),
    };
    let (stdout, stderr) = (&stdout[..cut(stdout)], &stderr[..cut(stderr)]);
    Some(JobProgress {
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
    fn progress_is_parsed_and_offsets_advance() {
        let from = Offsets {
            stdout: 10,
            stderr: 0,
        };
        let answer = "running - 3 2\noné".as_bytes();
        let cut = &answer[..answer.len() - 1];
        // The second byte of é is missing: the next poll returns the character.
        let progress = parse_progress(cut, from).unwrap();
        assert_eq!(progress.state, JobState::Running);
        assert_eq!(
            (progress.stdout.as_str(), progress.stdout_offset),
            ("on", 12)
        );
        let done = parse_progress(b"exited 7 3 2\noutno", from).unwrap();
        assert_eq!((done.state, done.exit_code), (JobState::Exited, Some(7)));
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out", "no"));
        assert_eq!((done.stdout_offset, done.stderr_offset), (13, 2));
        assert!(!done.more);
        for bad in ["", "x", "asleep - 0 0\n", "exited 0 5 0\nab"] {
            assert!(parse_progress(bad.as_bytes(), from).is_none(), "{bad}");
        }
        let most = "x".repeat(CHUNK as usize);
        for (streams, valid) in [
            (format!("exited 0 {CHUNK} {CHUNK}\n{most}{most}"), true),
            (format!("exited 0 {} 0\n{most}x", CHUNK + 1), false),
            (format!("exited 0 0 {}\n{most}x", CHUNK + 1), false),
        ] {
            assert_eq!(parse_progress(streams.as_bytes(), from).is_some(), valid);
        }
    }

    #[test]
    fn malformed_job_ids_are_rejected() {
        assert!(check_job_id("job-0123abcd").is_ok());
        for bad in ["", "job-", "job-../../x", "0123abcd", "job-0123abcg"] {
            assert!(check_job_id(bad).is_err(), "{bad}");
        }
    }
}
