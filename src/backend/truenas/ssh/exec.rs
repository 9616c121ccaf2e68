//! Running a command on a channel of its own, to its exit status.

use std::sync::Arc;
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::pid_line::PidLineFilter;
use super::{Session, command, lost};
use crate::model::{Control, Error, ExecIo, ExecRequest, ExitStatus, Result};

const CHUNK: usize = 32 * 1024;
/// What a command left in the background may still be writing is waited for
/// as long as it does, but silence no longer than this.
const SILENCE: Duration = Duration::from_secs(1);
/// For the server to take a signal.
const SIGNALLING: Duration = Duration::from_secs(5);
const END_OF_TRANSMISSION: u8 = 0x04;
/// The stream number of standard error.
const STDERR: u32 = 1;
const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;

type Half = ChannelWriteHalf<Msg>;

/// See `model::Guest::exec` for the contract.
pub(super) async fn run(
    session: &Arc<Session>,
    tasks: &TaskTracker,
    request: &ExecRequest,
    io: ExecIo,
) -> Result<ExitStatus> {
    let (mut from, to) = begin(session, request).await?.split();
    let to = Arc::new(to);
    let mut running = Running {
        session: Arc::clone(session),
        tasks: tasks.clone(),
        to: Some(Arc::clone(&to)),
        process: None,
    };
    let ExecIo {
        stdin,
        stdout,
        stderr,
        mut control,
    } = io;
    let tty = request.tty.is_some();
    // The stream that begins with the command's process.
    let mut told = PidLineFilter::default();
    let mut stdout = Sink::new(stdout);
    let mut stderr = Sink::new(stderr);
    let feeding = feed(stdin, &to, tty);
    tokio::pin!(feeding);
    let mut fed = false;
    let mut steered = true;
    let mut status = None;
    let mut closed = false;
    let mut on_event = Instant::now();
    loop {
        let silence = async {
            match status {
                Some(_) => tokio::time::sleep_until(on_event + SILENCE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = from.wait() => {
                on_event = Instant::now();
                match message {
                    Some(ChannelMsg::Data { data }) => {
                        let rest = if tty { told.strip(&data) } else { data.to_vec() };
                        if stdout.pass(&rest).await {
                            // What writing to a closed pipe would bring it.
                            running.signal(SIGPIPE);
                        }
                    }
                    Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                        let rest = if tty { data.to_vec() } else { told.strip(&data) };
                        stderr.pass(&rest).await;
                    }
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        status = i32::try_from(exit_status).ok();
                    }
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                        status = Some(128 + number(&signal_name));
                    }
                    Some(ChannelMsg::Close) => {
                        closed = true;
                        break;
                    }
                    Some(_) => {}
                    None => break,
                }
                if running.process.is_none() && told.process.is_some() {
                    running.process = told.process;
                    if stdout.broken {
                        running.signal(SIGPIPE);
                    }
                }
            }
            () = &mut feeding, if !fed => fed = true,
            event = control.recv(), if steered => match event {
                None => steered = false,
                Some(Control::Signal(number)) => running.signal(number),
                Some(Control::Resize(size)) => {
                    let (columns, rows) = (u32::from(size.columns), u32::from(size.rows));
                    let _ = to.window_change(columns, rows, 0, 0).await;
                }
            },
            () = silence => break,
        }
    }
    running.done().await;
    stdout.end(if tty { told.rest() } else { Vec::new() }).await;
    stderr.end(if tty { Vec::new() } else { told.rest() }).await;
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

/// A channel on which the command has been started.
async fn begin(session: &Session, request: &ExecRequest) -> Result<Channel<Msg>> {
    let line = command::line(request)?;
    let mut channel = session.channel().await?;
    if let Some(size) = request.tty {
        let term = request.env.get("TERM").map_or("xterm", String::as_str);
        let (columns, rows) = (u32::from(size.columns), u32::from(size.rows));
        channel
            .request_pty(true, term, columns, rows, 0, 0, &[])
            .await
            .map_err(lost)?;
        agreed(&mut channel, "a terminal").await?;
    }
    if !request.env.is_empty() {
        channel
            .set_env(true, command::MARK, "1")
            .await
            .map_err(lost)?;
        agreed(&mut channel, "variables (AcceptEnv PIXELS_E_*)").await?;
    }
    for (name, value) in &request.env {
        let name = format!("{}{name}", command::PREFIX);
        channel.set_env(false, name, value).await.map_err(lost)?;
    }
    channel.exec(true, line).await.map_err(lost)?;
    agreed(&mut channel, "a command").await?;
    Ok(channel)
}

/// The server's word on the latest request.
pub(super) async fn agreed(channel: &mut Channel<Msg>, what: &str) -> Result<()> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::Failure) => {
                return Err(Error::Unsupported {
                    operation: "this".into(),
                    reason: format!("the pixel's SSH server takes no {what}").into(),
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

/// Copies stdin; afterwards the command sees end of file.
async fn feed(mut from: Box<dyn AsyncRead + Send + Unpin>, to: &Half, tty: bool) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                let _ = match tty {
                    true => to.data_bytes(vec![END_OF_TRANSMISSION]).await,
                    false => to.eof().await,
                };
                return;
            }
            Ok(n) => {
                if to.data_bytes(buffer[..n].to_vec()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The near end of a stream, until it breaks.
struct Sink {
    to: Box<dyn AsyncWrite + Send + Unpin>,
    broken: bool,
}

impl Sink {
    fn new(to: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self { to, broken: false }
    }

    /// True when the stream broke just now.
    async fn pass(&mut self, data: &[u8]) -> bool {
        if self.broken || self.to.write_all(data).await.is_ok() {
            return false;
        }
        self.broken = true;
        true
    }

    async fn end(&mut self, rest: Vec<u8>) {
        self.pass(&rest).await;
        let _ = self.to.flush().await;
    }
}

/// A command under way; it is killed when nobody waits for it any more.
struct Running {
    session: Arc<Session>,
    tasks: TaskTracker,
    to: Option<Arc<Half>>,
    process: Option<u32>,
}

impl Running {
    /// The SSH server itself passes no signals on to what root runs.
    fn signal(&self, number: i32) {
        let Some(process) = self.process else {
            return;
        };
        let session = Arc::clone(&self.session);
        self.tasks
            .spawn(async move { kill(&session, process, number).await });
    }

    async fn done(mut self) {
        if let Some(to) = self.to.take() {
            let _ = to.close().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            self.signal(SIGKILL);
            self.tasks.spawn(async move {
                let _ = to.close().await;
            });
        }
    }
}

async fn kill(session: &Session, process: u32, number: i32) {
    let work = async {
        let mut channel = session.channel().await?;
        channel
            .exec(true, command::kill(process, number))
            .await
            .map_err(lost)?;
        while !matches!(channel.wait().await, None | Some(ChannelMsg::Close)) {}
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(SIGNALLING, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, number, "signal"),
        Err(_) => tracing::debug!(number, "signal took too long"),
    }
}

const SIGNALS: [(Sig, i32); 11] = [
    (Sig::HUP, 1),
    (Sig::INT, 2),
    (Sig::QUIT, 3),
    (Sig::ILL, 4),
    (Sig::ABRT, 6),
    (Sig::FPE, 8),
    (Sig::KILL, 9),
    (Sig::SEGV, 11),
    (Sig::PIPE, 13),
    (Sig::ALRM, 14),
    (Sig::TERM, 15),
];

fn number(signal: &Sig) -> i32 {
    let known = SIGNALS
        .iter()
        .find(|(known, _)| format!("{known:?}") == format!("{signal:?}"));
    match (known, signal) {
        (Some((_, number)), _) => *number,
        (None, Sig::USR1) => 10,
        (None, Sig::Custom(name)) => match name.as_str() {
            "USR2" => 12,
            "BUS" => 7,
            "TRAP" => 5,
            "XCPU" => 24,
            "XFSZ" => 25,
            "SYS" => 31,
            _ => 0,
        },
        (None, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_usual_numbers() {
        for (signal, n) in [
            (Sig::KILL, 9),
            (Sig::TERM, 15),
            (Sig::USR1, 10),
            (Sig::Custom("USR2".into()), 12),
        ] {
            assert_eq!(number(&signal), n);
        }
    }
}
