//! State that every command uses: settings, output, signals, and the backend.

use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backend;
use crate::config::{Loaded, Settings};
use crate::exit::Usage;
use crate::lifecycle;
use crate::model::{Backend, Instance, Name, Result, unless_cancelled};
use crate::signal::Signals;
use crate::ui::Ui;

/// Time limit for requests that are still running after an interrupt.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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

    /// A token that the first signal cancels.
    pub fn cancel(&self) -> &CancellationToken {
        self.signals.token()
    }

    /// The backend of the settings. The first call opens the backend.
    pub fn backend(&self) -> Result<&dyn Backend> {
        if let Some(backend) = self.backend.get() {
            return Ok(&**backend);
        }
        let backend = backend::open(self.settings())?;
        Ok(&**self.backend.get_or_init(|| backend))
    }

    /// Waits for `work`. A signal drops `work` and returns `Error::Cancelled`.
    /// Use only for work that needs no cleanup.
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        unless_cancelled(self.cancel(), work).await
    }

    /// Like [`unless_interrupted`](Self::unless_interrupted), for any output.
    pub async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.unless_interrupted(async { Ok(work.await) }).await
    }

    /// Reads the record of a pixel from the server.
    pub async fn get(&self, name: &Name) -> Result<Instance> {
        self.unless_interrupted(self.backend()?.get(name)).await
    }

    /// Reads the record of a pixel that must be running and unprivileged.
    pub async fn get_running(&self, name: &Name) -> Result<Instance> {
        let instance = self.get(name).await?;
        lifecycle::ensure_running(&instance)?;
        Ok(instance)
    }

    /// Asks a yes-or-no question. Fails with the usage error `no_terminal`
    /// without a terminal, and with `Error::Cancelled` on a signal.
    pub async fn confirm(&self, question: &str, no_terminal: &str) -> anyhow::Result<bool> {
        let (ui, question) = (self.ui, question.to_owned());
        let asking = tokio::task::spawn_blocking(move || ui.confirm(&question));
        let answer = self.interruptible(asking).await;
        let answer = answer.inspect_err(|_| ui.status(""))?;
        let answer = answer.unwrap_or_default();
        answer.ok_or_else(|| Usage(no_terminal.to_owned()).into())
    }

    /// Closes the backend if it is open.
    pub async fn close(&self) {
        if let Some(backend) = self.backend.get() {
            backend.close(CLOSE_TIMEOUT).await;
        }
    }
}
