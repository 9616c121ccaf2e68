//! Execution of a command in a pixel as a user expects it: exact arguments, a
//! login environment, and signals and timeouts that reach all of its processes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::creator::Creator;
use super::user::User;
use crate::model::{
    Control, Error, ExecIo, ExecRequest, ExitStatus, Guest, Precondition, Result, TtySize,
};

/// The environment variable that identifies all processes of a command.
pub const EXEC_ID: &str = "PIXELS_EXEC_ID";
/// The PATH that `guest/login-exec.sh` sets after the profiles, which set PATH
/// themselves.
const EXEC_PATH: &str = "PIXELS_EXEC_PATH";
/// Time between a request to end and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// How long the server may take to deliver a signal, [`GRACE`] included.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(10);
/// This many signals are delivered; the next one abandons the command.
const MAX_SIGNALS: u32 = 2;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecResult {
    pub status: ExitStatus,
    /// Whether the timeout ended the command; the status is then 124.
    pub timed_out: bool,
}

impl ExecResult {
    /// The exit status is that of timeout(1).
    const TIMED_OUT: Self = Self {
        status: ExitStatus(124),
        timed_out: true,
    };

    fn exited(status: ExitStatus) -> Self {
        Self {
            status,
            timed_out: false,
        }
    }
}

/// A command as the user typed it.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub argv: Vec<String>,
    pub user: User,
    /// Set over the login environment.
    pub env: BTreeMap<String, String>,
    /// `None`: the user's home directory.
    pub cwd: Option<String>,
    pub tty: Option<TtySize>,
    pub timeout: Option<Duration>,
}

/// stdin, stdout and stderr of a command.
pub type ExecStreams = (
    Box<dyn AsyncRead + Send + Unpin>,
    Box<dyn AsyncWrite + Send + Unpin>,
    Box<dyn AsyncWrite + Send + Unpin>,
);

/// Runs a command and waits for its end. If `precondition` fails, the command is
/// not started and its error is returned.
///
/// The result is the command's own exit status, or 124 after `options.timeout`,
/// which ends the command and every process it started.
///
/// `controls` delivers signals to the command, and window sizes if it has a
/// terminal. Without a terminal a signal reaches all processes of the command;
/// with one it is sent to the command alone, because keys reach the others. A
/// second SIGINT kills the command, and so does SIGTERM after a few seconds. If
/// the command survives that too, this fails with `Error::Cancelled` and does
/// not wait for it.
pub async fn exec(
    guest: &dyn Guest,
    options: &ExecOptions,
    precondition: Option<Precondition<'_>>,
    (stdin, stdout, stderr): ExecStreams,
    mut controls: mpsc::Receiver<Control>,
) -> Result<ExecResult> {
    let id = Creator::new().id();
    let request = exec_request(options, &id);
    let (to_command, control) = mpsc::channel(8);
    let io = ExecIo {
        stdin,
        stdout,
        stderr,
        control,
    };
    let command = async {
        match precondition {
            Some(precondition) => guest.exec_admitted(&request, io, precondition).await,
            None => guest.exec(&request, io).await,
        }
    };
    tokio::pin!(command);
    let timeout = async {
        match options.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(timeout);
    let mut signals = 0u32;
    loop {
        tokio::select! {
            biased;
            status = &mut command => return status.map(ExecResult::exited),
            () = &mut timeout => {
                let killing = signal(guest, &id, "TERM", Some(GRACE));
                tokio::pin!(killing);
                tokio::select! {
                    // 124 whatever the command exits with now. Its background
                    // processes end too.
                    status = &mut command => { status?; killing.await; }
                    () = &mut killing => {
                        // A command that survives SIGKILL is given up without an error.
                        if let Ok(status) = tokio::time::timeout(GRACE, &mut command).await {
                            status?;
                        }
                    }
                }
                return Ok(ExecResult::TIMED_OUT);
            }
            Some(event) = controls.recv() => match event {
                // Neither the command nor the server reacted to the others.
                Control::Signal(_) if signals == MAX_SIGNALS => return Err(Error::Cancelled),
                Control::Signal(number) if options.tty.is_none() => {
                    signals += 1;
                    let repeated = signals > 1 && number == SIGINT;
                    let name = if repeated { "KILL" } else { signal_name(number) };
                    let grace = (number != SIGINT).then_some(GRACE);
                    tokio::select! {
                        status = &mut command => return status.map(ExecResult::exited),
                        () = signal(guest, &id, name, grace) => {}
                    }
                    if grace.is_some() {
                        return after_kill(&mut command).await.map(ExecResult::exited);
                    }
                }
                other => {
                    signals += u32::from(matches!(other, Control::Signal(_)));
                    // The command may have just ended, and a connection that
                    // accepts nothing must not block the others.
                    let _ = to_command.try_send(other);
                    if other == Control::Signal(SIGTERM) {
                        // An interactive shell ignores SIGTERM, but not SIGHUP.
                        let hang_up = async {
                            tokio::time::sleep(GRACE).await;
                            signal(guest, &id, "HUP", Some(GRACE)).await;
                        };
                        tokio::select! {
                            status = &mut command => return status.map(ExecResult::exited),
                            () = hang_up => {}
                        }
                        return after_kill(&mut command).await.map(ExecResult::exited);
                    }
                }
            },
        }
    }
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;

fn signal_name(number: i32) -> &'static str {
    match number {
        SIGHUP => "HUP",
        SIGINT => "INT",
        SIGQUIT => "QUIT",
        _ => "TERM",
    }
}

/// Ends every process whose [`EXEC_ID`] is `id`: SIGTERM, and SIGKILL after 3 s.
/// Errors are only logged.
pub async fn terminate(guest: &dyn Guest, id: &str) {
    signal(guest, id, "TERM", Some(GRACE)).await;
}

/// Signals every process whose [`EXEC_ID`] is `id`; with `grace`, kills those
/// that remain after that time. Errors are only logged, because callers wait for
/// the command itself.
async fn signal(guest: &dyn Guest, id: &str, name: &str, grace: Option<Duration>) {
    let script = include_str!("guest/signal-tree.sh");
    let seconds = grace.unwrap_or_default().as_secs().to_string();
    let request = ExecRequest::root(["/bin/sh", "-c", script, "signal-tree", name, id, &seconds]);
    match tokio::time::timeout(SIGNAL_TIMEOUT, guest.output(&request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, name, "cannot send the signal"),
        Err(_) => tracing::debug!(name, "sending the signal timed out"),
    }
}

/// The exit status of a killed command; `Error::Cancelled` if it does not end.
async fn after_kill(command: impl Future<Output = Result<ExitStatus>>) -> Result<ExitStatus> {
    tokio::time::timeout(SIGNAL_TIMEOUT, command)
        .await
        .unwrap_or(Err(Error::Cancelled))
}

/// The request that runs a command in a login environment. The arguments are
/// passed beside the script that reads the profiles, never through it.
fn exec_request(options: &ExecOptions, id: &str) -> ExecRequest {
    let mut env = options.user.environment();
    env.insert(EXEC_ID.into(), id.to_owned());
    let mut extra = options.env.clone();
    if let Some(path) = extra.remove("PATH") {
        env.insert(EXEC_PATH.into(), path);
    }
    env.extend(extra);
    let script = include_str!("guest/login-exec.sh");
    let uid = options.user.ids.uid.to_string();
    let tty = if options.tty.is_some() { "tty" } else { "" };
    let cwd = options.cwd.as_deref().unwrap_or_default();
    let argv = ["/bin/sh", "-c", script, "sh", &uid, tty, cwd].map(str::to_owned);
    ExecRequest {
        argv: argv.into_iter().chain(options.argv.clone()).collect(),
        owner: options.user.ids,
        env,
        cwd: Some(options.user.home.clone()),
        tty: options.tty,
    }
}

/// Runs a shell script of pixels in a login environment and returns what it
/// prints. `command` names it in an error.
pub async fn run_script(
    guest: &dyn Guest,
    user: &User,
    command: &str,
    script: &str,
) -> Result<String> {
    let options = ExecOptions {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        user: user.clone(),
        env: BTreeMap::new(),
        cwd: None,
        tty: None,
        timeout: None,
    };
    let output = guest.output(&exec_request(&options, "script")).await?;
    output.into_text(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ids;

    #[test]
    fn profiles_are_read_without_starting_id_and_mesg() {
        let home = tempfile::tempdir().unwrap();
        let profile = "A=$(id -u); B=$(id -un); export A B; mesg n || A=$A,$?; PATH=/none\n";
        std::fs::write(home.path().join(".profile"), profile).unwrap();
        let options = ExecOptions {
            argv: ["sh", "-c", "echo $A $B $PWD $1", "sh", "a  b"]
                .map(str::to_owned)
                .to_vec(),
            user: User {
                name: "someone".into(),
                ids: Ids { uid: 4711, gid: 1 },
                home: home.path().display().to_string(),
                shell: "/bin/sh".into(),
            },
            env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            cwd: Some("/usr".into()),
            tty: None,
            timeout: None,
        };
        let run = |options: &ExecOptions| {
            let request = exec_request(options, "x");
            let mut command = std::process::Command::new(&request.argv[0]);
            command.args(&request.argv[1..]).envs(&request.env);
            let output = command.output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            let status = output.status.code().unwrap();
            (status, text(output.stdout), text(output.stderr))
        };
        let name = std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap();
        let name = String::from_utf8(name.stdout).unwrap();
        let expected = format!("4711,2 {} /usr a b\n", name.trim());
        assert_eq!(run(&options), (0, expected, String::new()));

        let cwd = Some("/no such".into());
        let message = "pixels: no directory /no such in the pixel\n".to_owned();
        let missing = run(&ExecOptions { cwd, ..options });
        assert_eq!(missing, (125, String::new(), message));
    }
}
