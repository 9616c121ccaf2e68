//! Running a command on a channel of its own, to its exit status.

use std::sync::Arc;
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Session, command, lost};
use crate::sandbox::{Control, Error, ExecIo, ExecRequest, ExitStatus, Result};

const CHUNK: usize = 32 * 1024;
/// What a command left in the background may still be writing is waited for
/// as long as it does, but silence no longer than this.
const SILENCE: Duration = Duration::from_secs(1);
/// For the server to take a signal.
const SIGNALLING: Duration = Duration::from_secs(5);
const END_OF_TRANSMISSION: u8 = 0x04;
/// The stream number of standard error.
const STDERR: u32 = 1;
/// Digits of a process's number, and a carriage return.
const NUMBER: usize = 11;
const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;

type Half = ChannelWriteHalf<Msg>;

/// See `sandbox::Guest::exec` for the contract.
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
    let mut told = Told::default();
    let mut stdout = Sink::new(stdout);
    let mut stderr = Sink::new(stderr);
    let feeding = feed(stdin, &to, tty);
    tokio::pin!(feeding);
    let mut fed = false;
    let mut steered = true;
    let mut status = None;
    let mut closed = false;
    let mut heard = Instant::now();
    loop {
        let silence = async {
            match status {
                Some(_) => tokio::time::sleep_until(heard + SILENCE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = from.wait() => {
                heard = Instant::now();
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
                    reason: format!("the pixel's SSH server takes no {what}"),
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

/// Takes the line that tells the command's process out of a stream.
#[derive(Default)]
struct Told {
    process: Option<u32>,
    /// A line that is not whole yet and may be the one.
    line: Vec<u8>,
    /// The line that is under way is another.
    other: bool,
}

impl Told {
    fn strip(&mut self, data: &[u8]) -> Vec<u8> {
        if self.process.is_some() {
            return data.to_vec();
        }
        let mut passed = Vec::new();
        for (at, byte) in data.iter().enumerate() {
            if self.other {
                passed.push(*byte);
                self.other = *byte != b'\n';
                continue;
            }
            self.line.push(*byte);
            if *byte != b'\n' {
                // It may never end.
                if !self.may_tell() {
                    passed.append(&mut self.line);
                    self.other = true;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            let process = text.trim_end().strip_prefix(command::PROCESS);
            self.process = process.and_then(|number| number.parse().ok());
            if self.process.is_some() {
                passed.extend_from_slice(&data[at + 1..]);
                break;
            }
            // Something the pixel's own shell has to say.
            passed.extend(line);
        }
        passed
    }

    fn may_tell(&self) -> bool {
        let mark = command::PROCESS.as_bytes();
        match self.line.strip_prefix(mark) {
            Some(number) => number.len() <= NUMBER,
            None => mark.starts_with(&self.line),
        }
    }

    /// What was held back of a stream that has ended.
    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
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
    fn the_process_is_taken_out_of_the_stream() {
        let mut told = Told::default();
        assert_eq!(told.strip(b"hello\npixels-pro"), b"hello\n");
        assert_eq!(
            told.strip(b"cess 42\r\nx\npixels-process 7\n"),
            b"x\npixels-process 7\n"
        );
        assert_eq!(told.process, Some(42));
        assert_eq!(told.strip(b"more"), b"more");
        let mut none = Told::default();
        assert_eq!(none.strip(b"pixels-pro"), b"");
        assert_eq!(none.rest(), b"pixels-pro");
        // What cannot be the line is not held back until it ends.
        let mut long = Told::default();
        assert_eq!(long.strip(b"no line"), b"no line");
        assert_eq!(long.strip(b" pixels-process 7"), b" pixels-process 7");
        assert_eq!(long.strip(b"\npixels-process 12345678901"), b"\n");
        assert_eq!(long.strip(b"2"), b"pixels-process 123456789012");
        assert_eq!(long.strip(b"\npixels-process 8\nx"), b"\nx");
        assert_eq!((long.process, long.rest()), (Some(8), Vec::new()));
    }

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
