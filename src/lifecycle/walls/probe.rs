//! Runs the script `guest/probe.pl` in guests: sessions that make attempts, and
//! witnesses that report received packets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::model::{Capture, Error, ExecIo, ExecRequest, Guest, Ids, Name, Record, Result, Writer};

const SCRIPT: &str = include_str!("../guest/probe.pl");
/// Buffer for lines to a session. Longer input waits until the guest reads.
const INPUT_BYTES: usize = 64 * 1024;
/// Time limit for the next report of a session.
const TIMEOUT: Duration = Duration::from_secs(30);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Identifies the packets of one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    pub run: u16,
    pub number: u16,
}

impl Token {
    /// The source port of TCP connections, and a port for listeners.
    pub fn port(self) -> u16 {
        10_000 + self.run % 100 * 200 + self.number % 200
    }

    /// A DNS record type for private use.
    pub fn record_type(self) -> u16 {
        0xff00 + self.number % 0xff
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pxw{:04}x{:03}q", self.run, self.number)
    }
}

/// Where and as which user to run the script.
pub struct Probe<'a> {
    pub guest: Box<dyn Guest + 'a>,
    pub name: &'a Name,
    pub owner: Ids,
    pub interface: &'static str,
}

/// The running scripts. Dropping this value ends the scripts.
#[derive(Default)]
pub struct Probes<'a>(FuturesUnordered<BoxFuture<'a, Error>>);

impl<'a> Probes<'a> {
    pub fn session(&mut self, probe: Probe<'a>) -> Session {
        let (input, lines) = self.start(probe, &[]);
        Session { input, lines }
    }

    /// `direction`: `in`, `out` or `both`.
    pub fn witness(&mut self, probe: Probe<'a>, direction: &str) -> Witness {
        let (input, lines) = self.start(probe, &["witness", direction]);
        Witness {
            lines,
            counts: BTreeMap::new(),
            _input: input,
        }
    }

    fn start(
        &mut self,
        probe: Probe<'a>,
        args: &[&str],
    ) -> (DuplexStream, mpsc::UnboundedReceiver<String>) {
        let (input, attempts) = tokio::io::duplex(INPUT_BYTES);
        let (send, lines) = mpsc::unbounded_channel();
        let argv = ["perl", "-"].iter().chain(args).copied();
        let mut request = ExecRequest::root(argv);
        request.owner = probe.owner;
        let interface = ("INTERFACE".to_owned(), probe.interface.to_owned());
        request.env = [("PATH".to_owned(), PATH.to_owned()), interface].into();
        self.0.push(Box::pin(async move {
            let stderr = Capture::default();
            let (_control, control) = mpsc::channel(1);
            let io = ExecIo {
                stdin: Box::new(SCRIPT.as_bytes().chain(attempts)),
                stdout: Box::new(Writer::new(Lines::new(send))),
                stderr: Box::new(stderr.clone()),
                control,
            };
            match probe.guest.exec(&request, io).await {
                Err(error) => error,
                Ok(status) => {
                    let command = format!("perl in {}", probe.name.instance());
                    Error::guest(command, status, &stderr.take().head)
                }
            }
        }));
        (input, lines)
    }

    /// Runs `work` while all scripts run. Fails if a script ends early.
    pub async fn during<T>(mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            Some(error) = self.0.next() => Err(error),
        }
    }
}

/// Splits output into lines.
struct Lines {
    partial: Vec<u8>,
    to: mpsc::UnboundedSender<String>,
}

/// A longer line is not from the script and is dropped.
const LINE_BYTES: usize = 4096;

impl Lines {
    fn new(to: mpsc::UnboundedSender<String>) -> Self {
        Self {
            partial: Vec::new(),
            to,
        }
    }
}

impl Record for Lines {
    fn record(&mut self, data: &[u8]) {
        for byte in data {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.partial).into_owned();
                    self.partial.clear();
                    let _ = self.to.send(line);
                }
                _ if self.partial.len() < LINE_BYTES => self.partial.push(*byte),
                _ => {}
            }
        }
    }
}

/// Makes attempts, one after another.
pub struct Session {
    input: DuplexStream,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Session {
    /// Makes attempts: a verb of the script with its arguments each. Returns the
    /// replies, in the same order.
    pub async fn run(&mut self, attempts: &[(Token, String)]) -> Result<Vec<Option<String>>> {
        let mut text = String::new();
        for (token, line) in attempts {
            text.push_str(&format!("{token} {line}\n"));
        }
        let sent = self.input.write_all(text.as_bytes()).await;
        sent.map_err(|error| Error::io("writing to the probe", error))?;
        let mut replies = Vec::new();
        for (token, _) in attempts {
            let report = next_line(&mut self.lines).await?;
            let unexpected = || Error::Protocol(format!("unexpected report of a probe: {report}"));
            let rest = report.strip_prefix(&token.to_string());
            let rest = rest.ok_or_else(unexpected)?;
            replies.push(rest.strip_prefix(" got ").map(str::to_owned));
        }
        Ok(replies)
    }

    /// Runs a shell command. Returns its output on one line, without the token.
    pub async fn sh(&mut self, token: Token, command: &str) -> Result<Option<String>> {
        let mut replies = self.run(&[(token, format!("sh {command}"))]).await?;
        let reply = replies.pop().flatten();
        Ok(reply.map(|text| text.trim().to_owned()))
    }
}

async fn next_line(lines: &mut mpsc::UnboundedReceiver<String>) -> Result<String> {
    match tokio::time::timeout(TIMEOUT, lines.recv()).await {
        Ok(Some(line)) => Ok(line),
        // `Probes::during` returns the error of the script.
        Ok(None) => std::future::pending().await,
        Err(_) => Err(Error::TimedOut {
            doing: "an attempt in a pixel".into(),
            after: TIMEOUT,
        }),
    }
}

/// Counts the packets of attempts on an interface.
pub struct Witness {
    lines: mpsc::UnboundedReceiver<String>,
    counts: BTreeMap<String, usize>,
    _input: DuplexStream,
}

impl Witness {
    pub async fn ready(&mut self) -> Result<()> {
        while next_line(&mut self.lines).await? != "witness ready" {}
        Ok(())
    }

    /// Returns the number of packets with the token so far.
    pub fn count(&mut self, token: Token) -> usize {
        while let Ok(line) = self.lines.try_recv() {
            *self.counts.entry(line).or_default() += 1;
        }
        let lines = [
            format!("saw {token}"),
            format!("syn {}", token.port()),
            format!("type {}", token.record_type()),
        ];
        lines.iter().filter_map(|line| self.counts.get(line)).sum()
    }

    pub fn saw(&mut self, token: Token) -> bool {
        self.count(token) > 0
    }

    /// Waits until a packet with the token arrives, at most for `limit`.
    pub async fn wait_for(&mut self, token: Token, limit: Duration) -> bool {
        let seen = async {
            while !self.saw(token) {
                match self.lines.recv().await {
                    Some(line) => *self.counts.entry(line).or_default() += 1,
                    None => std::future::pending().await,
                }
            }
        };
        tokio::time::timeout(limit, seen).await.is_ok()
    }
}
