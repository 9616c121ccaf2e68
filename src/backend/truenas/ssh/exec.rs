//! Runs a command on a separate channel and returns the exit status.

use std::sync::Arc;
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::pid_line::PidLineFilter;
use super::signals::{self, SIGKILL, SIGPIPE};
use super::{Session, command, lost};
use crate::model::{Control, Error, ExecIo, ExecRequest, ExitStatus, Result};

const CHUNK: usize = 32 * 1024;
/// How long to wait for more output from background processes after the command
/// has exited.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);
const END_OF_TRANSMISSION: u8 = 0x04;
/// The SSH data type code of stderr.
const STDERR: u32 = 1;

type WriteHalf = ChannelWriteHalf<Msg>;

/// Implements the contract of `model::Guest::exec`.
pub(super) async fn run(
    session: &Arc<Session>,
    tasks: &TaskTracker,
    request: &ExecRequest,
    io: ExecIo,
) -> Result<ExitStatus> {
    let (mut messages, channel) = start(session, request).await?.split();
    let channel = Arc::new(channel);
    let mut running = Running {
        session: Arc::clone(session),
        tasks: tasks.clone(),
        channel: Some(Arc::clone(&channel)),
        pid: None,
    };
    let ExecIo {
        stdin,
        stdout,
        stderr,
        mut control,
    } = io;
    let tty = request.tty.is_some();
    let mut filter = PidLineFilter::default();
    let mut stdout = Sink::new(stdout);
    let mut stderr = Sink::new(stderr);
    let copy_stdin = copy_stdin(stdin, &channel, tty);
    tokio::pin!(copy_stdin);
    let mut stdin_ended = false;
    let mut control_open = true;
    let mut status = None;
    let mut closed = false;
    let mut last_message = Instant::now();
    loop {
        let drained = async {
            match status {
                Some(_) => tokio::time::sleep_until(last_message + DRAIN_TIMEOUT).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = messages.wait() => {
                last_message = Instant::now();
                match message {
                    Some(ChannelMsg::Data { data }) => {
                        let rest = if tty { filter.strip(&data) } else { data.to_vec() };
                        if stdout.write(&rest).await {
                            // Emulates a write to a closed pipe.
                            running.signal(SIGPIPE);
                        }
                    }
                    Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                        let rest = if tty { data.to_vec() } else { filter.strip(&data) };
                        stderr.write(&rest).await;
                    }
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        status = i32::try_from(exit_status).ok();
                    }
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                        status = Some(128 + signals::number(&signal_name));
                    }
                    Some(ChannelMsg::Close) => {
                        closed = true;
                        break;
                    }
                    Some(_) => {}
                    None => break,
                }
                if running.pid.is_none() && filter.pid.is_some() {
                    running.pid = filter.pid;
                    if stdout.broken {
                        running.signal(SIGPIPE);
                    }
                }
            }
            () = &mut copy_stdin, if !stdin_ended => stdin_ended = true,
            event = control.recv(), if control_open => match event {
                None => control_open = false,
                Some(Control::Signal(number)) => running.signal(number),
                Some(Control::Resize(size)) => {
                    let (columns, rows) = (u32::from(size.columns), u32::from(size.rows));
                    let _ = channel.window_change(columns, rows, 0, 0).await;
                }
            },
            () = drained => break,
        }
    }
    running.finish().await;
    stdout
        .finish(if tty { filter.rest() } else { Vec::new() })
        .await;
    stderr
        .finish(if tty { Vec::new() } else { filter.rest() })
        .await;
    match status {
        Some(status) => Ok(ExitStatus(status)),
        None if closed => Err(Error::Protocol(
            "the command ended without an exit status".into(),
        )),
        None => Err(Error::Unreachable {
            endpoint: "the pixel".into(),
            reason: "the connection was lost while the command ran".into(),
        }),
    }
}

/// Starts the command on a new channel.
async fn start(session: &Session, request: &ExecRequest) -> Result<Channel<Msg>> {
    let line = command::line(request)?;
    let mut channel = session.channel().await?;
    if let Some(size) = request.tty {
        let term = request.env.get("TERM").map_or("xterm", String::as_str);
        let (columns, rows) = (u32::from(size.columns), u32::from(size.rows));
        channel
            .request_pty(true, term, columns, rows, 0, 0, &[])
            .await
            .map_err(lost)?;
        expect_success(&mut channel, "a terminal for a command").await?;
    }
    if !request.env.is_empty() {
        channel
            .set_env(true, command::ENV_PROBE, "1")
            .await
            .map_err(lost)?;
        expect_success(
            &mut channel,
            "an environment variable (AcceptEnv PIXELS_E_*)",
        )
        .await?;
    }
    for (name, value) in &request.env {
        let name = format!("{}{name}", command::ENV_PREFIX);
        channel.set_env(false, name, value).await.map_err(lost)?;
    }
    channel.exec(true, line).await.map_err(lost)?;
    expect_success(&mut channel, "running a command").await?;
    Ok(channel)
}

/// Waits for the response to the latest channel request. Fails with
/// `Error::Unsupported` for `operation` if the server rejects the request.
pub(super) async fn expect_success(channel: &mut Channel<Msg>, operation: &str) -> Result<()> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::Failure) => {
                return Err(Error::Unsupported {
                    operation: operation.to_owned(),
                    reason: "the pixel's SSH server refused the request".into(),
                });
            }
            Some(ChannelMsg::Close) | None => {
                return Err(Error::Unreachable {
                    endpoint: "the pixel".into(),
                    reason: "the connection was lost".into(),
                });
            }
            Some(_) => {}
        }
    }
}

/// Copies stdin until the end, then sends end of file.
async fn copy_stdin(mut stdin: Box<dyn AsyncRead + Send + Unpin>, channel: &WriteHalf, tty: bool) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                let _ = match tty {
                    true => channel.data_bytes(vec![END_OF_TRANSMISSION]).await,
                    false => channel.eof().await,
                };
                return;
            }
            Ok(n) => {
                if channel.data_bytes(buffer[..n].to_vec()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// An output stream of the caller. Ignores writes after the first failure.
struct Sink {
    to: Box<dyn AsyncWrite + Send + Unpin>,
    broken: bool,
}

impl Sink {
    fn new(to: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self { to, broken: false }
    }

    /// Writes data. Returns true if this write is the first write to fail.
    async fn write(&mut self, data: &[u8]) -> bool {
        if self.broken || self.to.write_all(data).await.is_ok() {
            return false;
        }
        self.broken = true;
        true
    }

    async fn finish(&mut self, rest: Vec<u8>) {
        self.write(&rest).await;
        let _ = self.to.flush().await;
    }
}

/// A running command. Dropping this value kills the command.
struct Running {
    session: Arc<Session>,
    tasks: TaskTracker,
    channel: Option<Arc<WriteHalf>>,
    /// The process id. `None` until the command has printed it.
    pid: Option<u32>,
}

impl Running {
    /// Sends a signal with `kill`, because OpenSSH does not deliver signals to
    /// commands of root.
    fn signal(&self, number: i32) {
        let Some(pid) = self.pid else {
            return;
        };
        let session = Arc::clone(&self.session);
        self.tasks
            .spawn(async move { kill(&session, pid, number).await });
    }

    /// Closes the channel without killing the command.
    async fn finish(mut self) {
        if let Some(channel) = self.channel.take() {
            let _ = channel.close().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.signal(SIGKILL);
            self.tasks.spawn(async move {
                let _ = channel.close().await;
            });
        }
    }
}

async fn kill(session: &Session, pid: u32, number: i32) {
    let work = async {
        let mut channel = session.channel().await?;
        channel
            .exec(true, command::kill(pid, number))
            .await
            .map_err(lost)?;
        while !matches!(channel.wait().await, None | Some(ChannelMsg::Close)) {}
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(SIGNAL_TIMEOUT, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, number, "could not send a signal"),
        Err(_) => tracing::debug!(number, "sending a signal timed out"),
    }
}
