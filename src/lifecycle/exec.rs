//! Runs a command in a pixel with exact arguments and a login environment.
//! Signals and timeouts reach all processes of the command.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::creator::Creator;
use super::private_env::PrivateEnv;
use super::user::User;
use crate::model::{
    Control, Error, ExecIo, ExecRequest, ExitStatus, Guest, Precondition, Result, TtySize,
};

/// The environment variable that identifies all processes of a command.
pub const EXEC_ID: &str = "PIXELS_EXEC_ID";
/// The PATH that `guest/login-exec.sh` sets after the profiles, because
/// profiles set PATH too.
const EXEC_PATH: &str = "PIXELS_EXEC_PATH";
/// Time between SIGTERM or SIGHUP and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// Time limit for the server to deliver a signal, including [`GRACE`].
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of signals that are delivered. The next signal ends the wait.
const MAX_SIGNALS: u32 = 2;

/// The result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecResult {
    pub status: ExitStatus,
    /// Whether the command timed out. The status is then 124.
    pub timed_out: bool,
}

impl ExecResult {
    /// The exit status that timeout(1) uses.
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

/// A command and its options, as typed by the user.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub argv: Vec<String>,
    pub user: User,
    /// Variables that override the login environment. Only processes of the user
    /// in the pixel can read the values.
    pub env: BTreeMap<String, String>,
    /// Working directory. `None`: the user's home directory.
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

/// Runs a command and waits until it exits. If `precondition` fails, the
/// command is not started and the error is returned.
///
/// Returns the exit status of the command, or 124 if `options.timeout` has
/// ended the command and all its processes.
///
/// `controls` delivers signals and, to a terminal, window sizes. Without a
/// terminal, a signal reaches all processes of the command. With a terminal, it
/// reaches only the command, because keys reach the other processes. A second
/// SIGINT kills the command, and SIGTERM kills it after a few seconds. Fails
/// with `Error::Cancelled`, without waiting longer, if the command is still
/// running after that.
pub async fn exec(
    guest: &dyn Guest,
    options: &ExecOptions,
    precondition: Option<Precondition<'_>>,
    (stdin, stdout, stderr): ExecStreams,
    mut controls: mpsc::Receiver<Control>,
) -> Result<ExecResult> {
    let id = Creator::new().id();
    let (request, variables) = exec_request(options, &id)?;
    let (to_command, control) = mpsc::channel(8);
    let io = |stdin| ExecIo {
        stdin,
        stdout,
        stderr,
        control,
    };
    let command = async {
        let precondition = match precondition {
            Some(precondition) if variables.has_file() => {
                precondition.await?;
                None
            }
            precondition => precondition,
        };
        variables.write_file(guest, request.owner).await?;
        let io = io(variables.input(stdin));
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
                    // The status is 124 in any case. Background processes of
                    // the command end too.
                    status = &mut command => { status?; killing.await; }
                    () = &mut killing => {
                        // A command that survives SIGKILL is not an error here.
                        if let Ok(status) = tokio::time::timeout(GRACE, &mut command).await {
                            status?;
                        }
                    }
                }
                return Ok(ExecResult::TIMED_OUT);
            }
            Some(event) = controls.recv() => match event {
                // The previous signals had no effect.
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
                    // The command may have just exited, and a connection that
                    // accepts no data must not block other events.
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

/// Ends every process whose [`EXEC_ID`] is `id`: with SIGTERM, then with
/// SIGKILL after 3 s. Errors are only logged.
pub async fn terminate(guest: &dyn Guest, id: &str) {
    signal(guest, id, "TERM", Some(GRACE)).await;
}

/// Sends a signal to every process whose [`EXEC_ID`] is `id`. With `grace`,
/// kills the remaining processes after that time. Errors are only logged,
/// because callers wait for the command.
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

/// The exit status of a killed command; `Error::Cancelled` if it does not exit.
async fn after_kill(command: impl Future<Output = Result<ExitStatus>>) -> Result<ExitStatus> {
    tokio::time::timeout(SIGNAL_TIMEOUT, command)
        .await
        .unwrap_or(Err(Error::Cancelled))
}

/// Returns the request that runs a command in a login environment, and the
/// variables of the options, which the request does not contain. Arguments are
/// passed unchanged, outside the script that reads the profiles.
fn exec_request(options: &ExecOptions, id: &str) -> Result<(ExecRequest, PrivateEnv)> {
    let mut env = options.user.environment();
    env.insert(EXEC_ID.into(), id.to_owned());
    let mut private = options.env.clone();
    if let Some(path) = private.remove("PATH") {
        private.insert(EXEC_PATH.into(), path);
    }
    // Backends use this variable for the terminal.
    env.extend(private.remove_entry("TERM"));
    let private = PrivateEnv::new(&private, options.tty.is_some())?;
    let script = include_str!("guest/login-exec.sh");
    let uid = options.user.ids.uid.to_string();
    let tty = if options.tty.is_some() { "tty" } else { "" };
    let cwd = options.cwd.as_deref().unwrap_or_default();
    let variables = private.argument();
    let argv = ["/bin/sh", "-c", script, "sh", &uid, tty, cwd, &variables].map(str::to_owned);
    let request = ExecRequest {
        argv: argv.into_iter().chain(options.argv.clone()).collect(),
        owner: options.user.ids,
        env,
        cwd: Some(options.user.home.clone()),
        tty: options.tty,
    };
    Ok((request, private))
}

/// Runs a shell script of pixels in a login environment and returns its output.
/// Errors contain the name `command`.
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
    let (request, _) = exec_request(&options, "script")?;
    let output = guest.output(&request).await?;
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
        // Shells use bytes from 0x81 on internally, as in U+0401.
        let odd = " it's \\\\ $A `id`\n\n\u{401}\u{448}\u{88} ";
        let options = ExecOptions {
            argv: [
                "sh",
                "-c",
                "printf '%s\\n' \"$A $B $PWD $1 $C\"; cat",
                "sh",
                "a  b",
            ]
            .map(str::to_owned)
            .to_vec(),
            user: User {
                name: "someone".into(),
                ids: Ids { uid: 4711, gid: 1 },
                home: home.path().display().to_string(),
                shell: "/bin/sh".into(),
            },
            env: [("PATH", "/usr/bin:/bin"), ("C", odd)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            cwd: Some("/usr".into()),
            tty: None,
            timeout: None,
        };
        let run = |options: &ExecOptions| {
            let (request, private) = exec_request(options, "x").unwrap();
            let mut command = std::process::Command::new(&request.argv[0]);
            command.args(&request.argv[1..]).envs(&request.env);
            let input = home.path().join("input");
            std::fs::write(&input, format!("{}input\n", private.code)).unwrap();
            command.stdin(std::fs::File::open(&input).unwrap());
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
        let expected = format!("4711,2 {} /usr a  b {odd}\ninput\n", name.trim());
        assert_eq!(run(&options), (0, expected, String::new()));

        let cwd = Some("/no such".into());
        let message = "pixels: no directory /no such in the pixel\n".to_owned();
        let missing = run(&ExecOptions { cwd, ..options });
        assert_eq!(missing, (125, String::new(), message));
    }
}
