//! What every command is handed: settings, output, signals, and the backend,
//! which is opened on first use.

use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backend;
use crate::config::{Loaded, Settings};
use crate::model::{Backend, Result, unless_cancelled};
use crate::signal::Signals;
use crate::ui::Ui;

/// For requests that go on after their command was interrupted.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Context {
    pub loaded: Loaded,
    pub ui: Ui,
    pub signals: Signals,
    backend: OnceLock<Box<dyn Backend>>,
}

impl Context {
    pub fn new(loaded: Loaded, ui: Ui, signals: Signals) -> Self {
        Self {
            loaded,
            ui,
            signals,
            backend: OnceLock::new(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.loaded.settings
    }

    pub fn cancel(&self) -> &CancellationToken {
        self.signals.token()
    }

    pub fn backend(&self) -> Result<&dyn Backend> {
        if let Some(open) = self.backend.get() {
            return Ok(&**open);
        }
        let opened = backend::open(self.settings())?;
        Ok(&**self.backend.get_or_init(|| opened))
    }

    /// Runs a step that changes nothing half-way; a signal ends the wait.
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        unless_cancelled(self.cancel(), work).await
    }

    /// Asks on the terminal; `None` when there is nobody to ask. A signal ends
    /// the asking.
    pub async fn confirm(&self, question: &str) -> Result<Option<bool>> {
        let (ui, asked) = (self.ui, question.to_owned());
        let asking = tokio::task::spawn_blocking(move || ui.confirm(&asked));
        let answer = self.unless_interrupted(async { Ok(asking.await.unwrap_or_default()) });
        answer.await.inspect_err(|_| ui.status(""))
    }

    pub async fn close(&self) {
        if let Some(backend) = self.backend.get() {
            backend.close(CLOSING).await;
        }
    }
}
