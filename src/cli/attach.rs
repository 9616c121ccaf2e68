//! Runs a command in a pixel, attached to this terminal: standard streams,
//! window size, signals and exit code.

use crate::exit::{ExecTimedOut, ExitWith};
use crate::lifecycle::{self, ExecOptions, ExecResult};
use crate::model::{Control, Error, Guest, Precondition};
use crate::term::{self, RawMode, StdoutWriter};

use super::Context;

/// Runs a command in a pixel and exits with its exit code. If `precondition`
/// fails, the command is not started. `options.env` overrides the session
/// variables of the settings. Signals are sent to the command and do not end
/// pixels.
pub async fn attach(
    context: &Context,
    guest: &dyn Guest,
    mut options: ExecOptions,
    precondition: Option<Precondition<'_>>,
) -> anyhow::Result<()> {
    let env = &context.settings().env;
    let variables = env.resolve(&|name| std::env::var_os(name))?;
    let requested = std::mem::replace(&mut options.env, variables.session);
    if options.tty.is_some() {
        let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
        options.env.insert(
            "TERM".into(),
            term.unwrap_or_else(|| "xterm-256color".into()),
        );
    }
    options.env.extend(requested);
    let (sender, events) = context.signals.attach();
    // With -t, the command gets a terminal even if pixels has no terminal.
    let raw_mode = if options.tty.is_some() && term::interactive() {
        Some(RawMode::enter().map_err(|e| Error::io("switching the terminal to raw mode", e))?)
    } else {
        None
    };
    let forward_resizes = async {
        use tokio::signal::unix::{SignalKind, signal};
        if let (true, Ok(mut changes)) = (raw_mode.is_some(), signal(SignalKind::window_change())) {
            while changes.recv().await.is_some() {
                let _ = sender.send(Control::Resize(term::size())).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let stdout = StdoutWriter::stdout().map_err(|e| Error::io("opening stdout", e))?;
    let stderr = StdoutWriter::stderr().map_err(|e| Error::io("opening stderr", e))?;
    let outcomes = [
        (stdout.outcome(), "writing to stdout"),
        (stderr.outcome(), "writing to stderr"),
    ];
    let running = lifecycle::exec(
        guest,
        &options,
        precondition,
        (
            Box::new(tokio::io::stdin()),
            Box::new(stdout),
            Box::new(stderr),
        ),
        events,
    );
    let result = tokio::select! {
        result = running => result,
        () = forward_resizes => unreachable!("never ends"),
    };
    drop(raw_mode);
    let ExecResult { status, timed_out } = result?;
    if timed_out && let Some(limit) = options.timeout {
        let error = ExecTimedOut(limit.as_secs_f64());
        if context.ui.json() {
            return Err(error.into());
        }
        context.ui.status(&format!("pixels: {error}"));
    }
    for (outcome, action) in outcomes {
        // A closed pipe is not an error, as in `pixels exec ... | head`.
        if let Some(error) = outcome.error()
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(Error::io(action, error).into());
        }
    }
    if status.success() {
        return Ok(());
    }
    Err(ExitWith(u8::try_from(status.0).unwrap_or(crate::exit::FAILURE)).into())
}
