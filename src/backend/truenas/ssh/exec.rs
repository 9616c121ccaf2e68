//! Running a command on a channel of its own, to its exit status.

use std::sync::Arc;
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::command;
use super::lost;
use crate::sandbox::{Control, Error, ExecIo, ExecRequest, ExitStatus, Result};

const CHUNK: usize = 32 * 1024;
/// What a command left in the background may still be writing is waited for
/// as long as it does, but silence no longer than this.
const SILENCE: Duration = Duration::from_secs(1);
const END_OF_TRANSMISSION: u8 = 0x04;
/// The stream number of standard error.
const STDERR: u32 = 1;

type Half = ChannelWriteHalf<Msg>;

/// See `sandbox::Guest::exec` for the contract.
pub(super) async fn run(
    channel: Channel<Msg>,
    tasks: &TaskTracker,
    request: &ExecRequest,
    io: ExecIo,
) -> Result<ExitStatus> {
    let line = command::line(request)?;
    let mut channel = channel;
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

    let (mut from, to) = channel.split();
    let to = Arc::new(to);
    let guard = Guard {
        to: Some(Arc::clone(&to)),
        tasks: tasks.clone(),
    };
    let ExecIo {
        stdin,
        mut stdout,
        mut stderr,
        mut control,
    } = io;
    let feeding = feed(stdin, &to, request.tty.is_some());
    tokio::pin!(feeding);
    let mut fed = false;
    let mut steered = true;
    let mut broken = false;
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
                        if !broken && stdout.write_all(&data).await.is_err() {
                            broken = true;
                            // What writing to a closed pipe would bring it.
                            let _ = to.signal(Sig::PIPE).await;
                        }
                    }
                    Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                        let _ = stderr.write_all(&data).await;
                    }
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        status = i32::try_from(exit_status).ok();
                    }
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                        status = Some(128 + number(&signal_name));
                    }
                    Some(ChannelMsg::Close) => { closed = true; break }
                    Some(_) => {}
                    None => break,
                }
            }
            () = &mut feeding, if !fed => fed = true,
            event = control.recv(), if steered => match event {
                None => steered = false,
                Some(Control::Signal(n)) => { let _ = to.signal(signal(n)).await; }
                Some(Control::Resize(size)) => {
                    let (columns, rows) = (u32::from(size.columns), u32::from(size.rows));
                    let _ = to.window_change(columns, rows, 0, 0).await;
                }
            },
            () = silence => break,
        }
    }
    guard.done().await;
    let _ = stdout.flush().await;
    let _ = stderr.flush().await;
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

/// Ends the command when nobody waits for it any more.
struct Guard {
    to: Option<Arc<Half>>,
    tasks: TaskTracker,
}

impl Guard {
    async fn done(mut self) {
        if let Some(to) = self.to.take() {
            let _ = to.close().await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            self.tasks.spawn(async move {
                let _ = to.signal(Sig::KILL).await;
                let _ = to.close().await;
            });
        }
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

fn signal(number: i32) -> Sig {
    let known = SIGNALS.iter().find(|(_, n)| *n == number);
    match (known, number) {
        (Some((signal, _)), _) => signal.clone(),
        (None, 10) => Sig::USR1,
        (None, 12) => Sig::Custom("USR2".into()),
        (None, other) => Sig::Custom(other.to_string()),
    }
}

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
    fn signals_have_the_same_number_both_ways() {
        for n in [1, 2, 3, 6, 9, 10, 12, 13, 14, 15] {
            assert_eq!(number(&signal(n)), n);
        }
    }
}
