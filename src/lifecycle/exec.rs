//! One command in a pixel, as a user expects it to behave: exact arguments,
//! a login environment, signals and time-outs that reach all of its processes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use super::creator::Creator;
use super::user::User;
use crate::model::{
    Control, Error, ExecIo, ExecRequest, ExitStatus, Guest, Ids, Precondition, Result, TtySize,
};

/// The variable by which a command's processes are found again.
pub const ID: &str = "PIXELS_EXEC_ID";
/// Carries `-e PATH=…` past the login profile, which sets PATH itself.
const PATH: &str = "PIXELS_EXEC_PATH";
/// A pixel can be worked in from the moment it starts; until the script of its
/// first boot has become init it may still show its source's identity.
const FIRST_BOOT: &str = "pixels_n=0; while [ $pixels_n -lt 500 ] \
    && { read -r pixels_init </proc/1/comm; } 2>/dev/null && [ \"$pixels_init\" = sh ]; \
    do pixels_n=$((pixels_n + 1)); sleep 0.01; done; ";
/// Between asking a command to end and killing it.
const GRACE: Duration = Duration::from_secs(3);
/// For the server to deliver a signal, [`GRACE`] included.
const SIGNALLING: Duration = Duration::from_secs(10);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecResult {
    pub status: ExitStatus,
    /// By its time limit, not by itself; the status is 124 then.
    pub timed_out: bool,
}

impl ExecResult {
    /// As by timeout(1).
    const TIMED_OUT: Self = Self {
        status: ExitStatus(124),
        timed_out: true,
    };

    fn uninterrupted(status: ExitStatus) -> Self {
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
    pub login: User,
    /// Over the login's environment.
    pub env: BTreeMap<String, String>,
    /// The login's home when absent.
    pub cwd: Option<String>,
    pub tty: Option<TtySize>,
    pub timeout: Option<Duration>,
}

/// What reaches a running command from outside.
pub struct SignalSource {
    /// Signals for the command; window sizes too when it has a terminal.
    pub events: mpsc::Receiver<Control>,
}

/// Runs the command to its end, which begins when it is admitted. The exit status is the command's own, or 124
/// when `timeout` passed and it was ended together with all it had started.
///
/// A signal is delivered to all processes of the command; with a terminal,
/// keys do that and signals are sent to the command alone. A second SIGINT,
/// or SIGTERM that is not obeyed within a few seconds, kills; when that does
/// not help either, it ends as `Error::Cancelled` without the command.
pub async fn exec(
    guest: &dyn Guest,
    options: &ExecOptions,
    admission: Option<Precondition<'_>>,
    io: (
        Box<dyn tokio::io::AsyncRead + Send + Unpin>,
        Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
        Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    ),
    mut interrupts: SignalSource,
) -> Result<ExecResult> {
    let id = Creator::new().unique();
    let request = wrap(options, &id);
    let (to_command, control) = mpsc::channel(8);
    let io = ExecIo {
        stdin: io.0,
        stdout: io.1,
        stderr: io.2,
        control,
    };
    let command = async {
        match admission {
            Some(admission) => guest.exec_admitted(&request, io, admission).await,
            None => guest.exec(&request, io).await,
        }
    };
    tokio::pin!(command);
    let limit = async {
        match options.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(limit);
    let mut asked = 0u32;
    loop {
        tokio::select! {
            biased;
            status = &mut command => return status.map(ExecResult::uninterrupted),
            () = &mut limit => {
                let ending = signal(guest, &id, "TERM", Some(GRACE));
                tokio::pin!(ending);
                tokio::select! {
                    // The time limit has passed: its code stands whatever the command
                    // says, and what it left in the background ends too.
                    status = &mut command => { status?; ending.await; }
                    () = &mut ending => { drain(&mut command).await?; }
                }
                return Ok(ExecResult::TIMED_OUT);
            }
            Some(event) = interrupts.events.recv() => match event {
                // The command, or the server, is beyond being asked.
                Control::Signal(_) if asked == LAST => return Err(Error::Cancelled),
                Control::Signal(number) if options.tty.is_none() => {
                    asked += 1;
                    let name = if asked > 1 && number == SIGINT { "KILL" } else { signal_name(number) };
                    let grace = (number != SIGINT).then_some(GRACE);
                    tokio::select! {
                        status = &mut command => return status.map(ExecResult::uninterrupted),
                        () = signal(guest, &id, name, grace) => {}
                    }
                    if grace.is_some() {
                        return after_kill(&mut command).await.map(ExecResult::uninterrupted);
                    }
                }
                other => {
                    asked += u32::from(matches!(other, Control::Signal(_)));
                    // A command that just ended needs no signal any more, and a
                    // connection that takes none must not hold up the rest.
                    let _ = to_command.try_send(other);
                    if other == Control::Signal(SIGTERM) {
                        // A shell on a terminal ignores it, and leaves when that hangs up.
                        let hang_up = async {
                            tokio::time::sleep(GRACE).await;
                            signal(guest, &id, "HUP", Some(GRACE)).await;
                        };
                        tokio::select! {
                            status = &mut command => return status.map(ExecResult::uninterrupted),
                            () = hang_up => {}
                        }
                        return after_kill(&mut command).await.map(ExecResult::uninterrupted);
                    }
                }
            },
        }
    }
}

/// So many signals are passed on; one more ends the waiting.
const LAST: u32 = 2;

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

/// Ends every process that runs under `id` as [`exec`] ends a command: asked
/// first, killed after a few seconds.
pub async fn end(guest: &dyn Guest, id: &str) {
    signal(guest, id, "TERM", Some(GRACE)).await;
}

/// Signals every process of the command; with `grace`, kills what is left of
/// them after that time. Best effort: the command's own end is what is waited for.
async fn signal(guest: &dyn Guest, id: &str, name: &str, grace: Option<Duration>) {
    let script = include_str!("guest/signal-tree.sh");
    let seconds = grace.unwrap_or_default().as_secs().to_string();
    let argv = [
        "/bin/sh",
        "-c",
        script,
        "signal-tree",
        name,
        id,
        seconds.as_str(),
    ];
    let request = ExecRequest::root(argv);
    match tokio::time::timeout(SIGNALLING, guest.output(&request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, name, "signal"),
        Err(_) => tracing::debug!(name, "signal took too long"),
    }
}

/// The status of a command of which nothing should be left.
async fn after_kill(command: impl Future<Output = Result<ExitStatus>>) -> Result<ExitStatus> {
    tokio::time::timeout(SIGNALLING, command)
        .await
        .unwrap_or(Err(Error::Cancelled))
}

async fn drain(command: impl Future<Output = Result<ExitStatus>>) -> Result<()> {
    match tokio::time::timeout(GRACE, command).await {
        Ok(outcome) => outcome.map(drop),
        // Killed, and still not gone: the time limit is the answer all the same.
        Err(_) => Ok(()),
    }
}

/// What `sh -l` does, with one difference: profiles ask `id -u` (Debian's
/// twice), and root's says `mesg n`, which without a terminal only fails. Both
/// are answered without starting a program, which would cost more than all the
/// rest.
fn login_profile(owner: Ids, tty: bool) -> String {
    let mesg = if tty { "" } else { "mesg() { return 2; }; " };
    format!(
        "id() {{ case $* in -u) echo {} ;; *) command id \"$@\" ;; esac; }}; {mesg}\
         [ ! -r /etc/profile ] || . /etc/profile; \
         [ ! -r \"$HOME/.profile\" ] || . \"$HOME/.profile\"; \
         unset -f id mesg; ",
        owner.uid
    )
}

/// The request that runs a command in a login environment.
///
/// The shell reads the login profile and then becomes the command: the
/// arguments are passed beside the script, never through it.
pub fn wrap(options: &ExecOptions, id: &str) -> ExecRequest {
    let mut env = options.login.environment();
    env.insert(ID.into(), id.to_owned());
    let mut script = FIRST_BOOT.to_owned();
    script.push_str(&login_profile(options.login.owner, options.tty.is_some()));
    let mut extra = options.env.clone();
    if let Some(path) = extra.remove("PATH") {
        env.insert(PATH.into(), path);
        script.push_str("PATH=$PIXELS_EXEC_PATH; export PATH; unset PIXELS_EXEC_PATH; ");
    }
    env.extend(extra);
    let mut argv: Vec<String> = vec!["/bin/sh".into(), "-c".into()];
    if let Some(dir) = &options.cwd {
        // Not by the daemon, which would silently run in / when it does not exist.
        script.push_str(
            "cd -- \"$1\" 2>/dev/null || { echo \"pixels: no directory $1 in the pixel\" >&2; \
             exit 125; }; shift; ",
        );
        script.push_str("exec \"$@\"");
        argv.extend([script, "sh".into(), dir.clone()]);
    } else {
        script.push_str("exec \"$@\"");
        argv.extend([script, "sh".into()]);
    }
    argv.extend(options.argv.iter().cloned());
    ExecRequest {
        argv,
        owner: options.login.owner,
        env,
        cwd: Some(options.login.home.clone()),
        tty: options.tty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_and_learn_the_user_without_a_program() {
        let home = tempfile::tempdir().unwrap();
        let profile = "A=$(id -u); B=$(id -un); export A B; mesg n || A=$A,$?\n";
        std::fs::write(home.path().join(".profile"), profile).unwrap();
        let options = ExecOptions {
            argv: ["sh", "-c", "echo $A $B $1", "sh", "a  b"]
                .map(str::to_owned)
                .to_vec(),
            login: User {
                user: "someone".into(),
                owner: Ids { uid: 4711, gid: 1 },
                home: home.path().display().to_string(),
                shell: "/bin/sh".into(),
            },
            env: BTreeMap::new(),
            cwd: None,
            tty: None,
            timeout: None,
        };
        let request = wrap(&options, "x");
        let output = std::process::Command::new(&request.argv[0])
            .args(&request.argv[1..])
            .envs(&request.env)
            .output()
            .unwrap();
        let real = std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap();
        let real = String::from_utf8(real.stdout).unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("4711,2 {} a b\n", real.trim())
        );
        assert!(output.stderr.is_empty());
    }
}
