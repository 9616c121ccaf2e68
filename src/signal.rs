//! Signals: the first one asks the command to end in order, a second one
//! leaves at once. While a command inside a pixel is attached, they are its.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::Control;
use crate::{exit, term};

/// Shared by everything that must know of an interruption.
#[derive(Debug, Clone)]
pub struct Signals {
    cancel: CancellationToken,
    /// The first signal's number; 0 when there was none.
    first: Arc<AtomicI32>,
    attached: Arc<Mutex<Option<mpsc::Sender<Control>>>>,
}

impl Signals {
    /// Starts to listen. Must be called inside the runtime.
    pub fn listen() -> std::io::Result<Self> {
        let this = Self {
            cancel: CancellationToken::new(),
            first: Arc::new(AtomicI32::new(0)),
            attached: Arc::new(Mutex::new(None)),
        };
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            tokio::spawn(this.clone().watch(kind.as_raw_value(), signal(kind)?));
        }
        Ok(this)
    }

    /// Cancelled by the first signal.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The exit code of an interruption, when there was one.
    pub fn code(&self) -> Option<u8> {
        match self.first.load(Ordering::Relaxed) {
            0 => None,
            number => Some(code_of(number)),
        }
    }

    /// From now on signals go to the returned receiver instead.
    pub fn attach(&self) -> (mpsc::Sender<Control>, mpsc::Receiver<Control>) {
        let (sender, receiver) = mpsc::channel(16);
        *self.attached.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        (sender, receiver)
    }

    async fn watch(self, number: i32, mut source: Signal) {
        while source.recv().await.is_some() {
            let attached = self
                .attached
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            match attached {
                Some(to) => {
                    let unset = Ordering::Relaxed;
                    let _ = self.first.compare_exchange(0, number, unset, unset);
                    let _ = to.try_send(Control::Signal(number));
                }
                None if self
                    .first
                    .compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok() =>
                {
                    self.cancel.cancel();
                }
                None => exit_now(number),
            }
        }
    }
}

fn code_of(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(exit::FAILURE)
}

/// The user insists: nothing is cleaned up any more but the terminal.
fn exit_now(number: i32) -> ! {
    term::restore();
    std::process::exit(i32::from(code_of(number)));
}
