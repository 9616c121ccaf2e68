//! Signal handling: the first signal cancels the command, the second signal
//! exits at once. Signals go to an attached command in a pixel instead.

use std::sync::{Arc, Mutex, OnceLock};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::{Control, lock};
use crate::{exit, term};

/// Listens for SIGINT, SIGTERM and SIGHUP. Clones share their state.
#[derive(Debug, Clone)]
pub struct Signals {
    cancel: CancellationToken,
    /// The number of the first received signal.
    first: Arc<OnceLock<i32>>,
    attached: Arc<Mutex<Option<mpsc::Sender<Control>>>>,
}

impl Signals {
    /// Starts listening. Panics outside the async runtime.
    pub fn listen() -> std::io::Result<Self> {
        let signals = Self {
            cancel: CancellationToken::new(),
            first: Arc::default(),
            attached: Arc::default(),
        };
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            tokio::spawn(signals.clone().watch(kind.as_raw_value(), signal(kind)?));
        }
        Ok(signals)
    }

    /// Returns the token that the first signal cancels.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The exit code for the first signal, or `None` without a signal.
    pub fn exit_code(&self) -> Option<u8> {
        self.first.get().copied().map(exit_code)
    }

    /// Sends later signals to the returned receiver instead. Use the sender to send
    /// other events to the same receiver.
    pub fn attach(&self) -> (mpsc::Sender<Control>, mpsc::Receiver<Control>) {
        let (sender, receiver) = mpsc::channel(16);
        *lock(&self.attached) = Some(sender.clone());
        (sender, receiver)
    }

    async fn watch(self, number: i32, mut signals: Signal) {
        while signals.recv().await.is_some() {
            let attached = lock(&self.attached).clone();
            let is_first = self.first.set(number).is_ok();
            match attached {
                Some(receiver) => {
                    let _ = receiver.try_send(Control::Signal(number));
                }
                None if is_first => self.cancel.cancel(),
                None => exit_now(number),
            }
        }
    }
}

fn exit_code(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(exit::FAILURE)
}

/// Exits without cleanup, but restores the terminal.
fn exit_now(number: i32) -> ! {
    term::restore();
    std::process::exit(i32::from(exit_code(number)));
}
