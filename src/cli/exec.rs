//! `pixels exec`

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{Context, completions};
use crate::exit::{ExecTimedOut, ExitWith, Usage};
use crate::lifecycle::{self, ExecOptions, ExecResult, User};
use crate::model::{Control, Error, Guest, Instance, Name, Precondition, Status, Subject};
use crate::term::{self, RawMode, StdoutWriter};

/// Run a command in a pixel; its exit code becomes ours
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Set a variable; without a value, pass on our own
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Working directory, by default the user's home
    #[arg(short = 'w', long, value_name = "DIR")]
    cwd: Option<String>,
    /// User name, number or UID:GID to run as
    #[arg(short, long)]
    user: Option<String>,
    /// End the command after this time, such as 90s or 5m
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = duration)]
    timeout: Option<Duration>,
    /// Run on a terminal even when we are not on one
    #[arg(short = 't', long, overrides_with = "no_tty")]
    tty: bool,
    /// Run without a terminal even when we are on one
    #[arg(short = 'T', long, overrides_with = "tty")]
    no_tty: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl ExecArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let env = variables(&self.env)?;
        let backend = context.backend()?;
        let guest = backend.guest(&self.name);
        let tty = self.tty || (term::interactive() && !self.no_tty);
        let mut options = ExecOptions {
            argv: self.command,
            user: User::expected(context.settings().provision.enabled),
            env,
            cwd: self.cwd,
            tty: tty.then(term::size),
            timeout: self.timeout,
        };
        let pixel = context.unless_interrupted(backend.get(&self.name));
        if let Some(user) = &self.user {
            ensure_running(&pixel.await?)?;
            options.user = context
                .unless_interrupted(User::lookup(&*guest, user))
                .await?;
            return attach(context, &*guest, options, None).await;
        }
        // Asking costs as much as getting the command ready: both at once. One
        // that would run as somebody else than it should does not begin.
        let other = OnceLock::new();
        let expected = options.user.clone();
        let admission = async {
            let pixel = pixel.await?;
            ensure_running(&pixel)?;
            let login = User::default_for(&pixel);
            if login != expected {
                let _ = other.set(login);
                return Err(Error::Cancelled);
            }
            Ok(())
        };
        let outcome = attach(context, &*guest, options.clone(), Some(Box::pin(admission))).await;
        match other.into_inner() {
            Some(user) => attach(context, &*guest, ExecOptions { user, ..options }, None).await,
            None => outcome,
        }
    }
}

/// Refuses what cannot be worked in, with the reason.
pub fn ensure_running(instance: &Instance) -> Result<(), Error> {
    ensure_unprivileged(instance)?;
    match instance.status {
        Status::Running => Ok(()),
        other => Err(Error::WrongState {
            subject: Subject::pixel(&instance.name),
            state: other.as_str().to_lowercase(),
        }),
    }
}

pub fn ensure_unprivileged(instance: &Instance) -> Result<(), Error> {
    if instance.privileged {
        return Err(Error::Unsupported {
            operation: format!("work in {}", Subject::pixel(&instance.name)),
            reason: "it is privileged: root in it is root on the server".into(),
        });
    }
    Ok(())
}

/// Runs a command on our own streams, when it is admitted, and ends with its
/// exit code.
pub async fn attach(
    context: &Context,
    guest: &dyn Guest,
    mut options: ExecOptions,
    admission: Option<Precondition<'_>>,
) -> anyhow::Result<()> {
    let ours = |name: &str| std::env::var_os(name);
    let given = std::mem::take(&mut options.env);
    options.env = context.settings().env.resolve(&ours)?.session;
    if options.tty.is_some() {
        let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
        options.env.insert(
            "TERM".into(),
            term.unwrap_or_else(|| "xterm-256color".into()),
        );
    }
    options.env.extend(given);
    let (sender, events) = context.signals.attach();
    // A forced terminal (-t) need not have one on our side.
    let raw = if options.tty.is_some() && term::interactive() {
        Some(RawMode::enter().map_err(|e| Error::io("switching the terminal to raw mode", e))?)
    } else {
        None
    };
    let resizing = async {
        use tokio::signal::unix::{SignalKind, signal};
        if let (true, Ok(mut changes)) = (raw.is_some(), signal(SignalKind::window_change())) {
            while changes.recv().await.is_some() {
                let _ = sender.send(Control::Resize(term::size())).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let stdout = StdoutWriter::stdout().map_err(|e| Error::io("opening our output", e))?;
    let stderr = StdoutWriter::stderr().map_err(|e| Error::io("opening our error output", e))?;
    let fates = [
        (stdout.fate(), "writing to stdout"),
        (stderr.fate(), "writing to stderr"),
    ];
    let running = lifecycle::exec(
        guest,
        &options,
        admission,
        (
            Box::new(tokio::io::stdin()),
            Box::new(stdout),
            Box::new(stderr),
        ),
        events,
    );
    let ended = tokio::select! {
        ended = running => ended,
        () = resizing => unreachable!("resizing never ends"),
    };
    drop(raw);
    let ExecResult { status, timed_out } = ended?;
    if timed_out && let Some(limit) = options.timeout {
        let overdue = ExecTimedOut(limit.as_secs_f64());
        if context.ui.json() {
            return Err(overdue.into());
        }
        context.ui.status(&format!("pixels: {overdue}"));
    }
    for (fate, doing) in fates {
        let lost = fate.loss();
        if let Some(error) = lost.filter(|e| e.kind() != std::io::ErrorKind::BrokenPipe) {
            return Err(Error::io(doing, error).into());
        }
    }
    if status.success() {
        return Ok(());
    }
    Err(ExitWith(u8::try_from(status.0).unwrap_or(crate::exit::FAILURE)).into())
}

fn variables(given: &[String]) -> Result<BTreeMap<String, String>, Usage> {
    let mut variables = BTreeMap::new();
    for one in given {
        let (key, value) = match one.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (one.as_str(), std::env::var(one).ok()),
        };
        let sound = !key.is_empty()
            && !key.starts_with(|c: char| c.is_ascii_digit())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !sound {
            return Err(Usage(format!(
                "--env {one:?}: a variable's name consists of letters, digits and _"
            )));
        }
        // Like docker: a name alone that we do not have ourselves sets nothing.
        if let Some(value) = value {
            variables.insert(key.to_owned(), value);
        }
    }
    Ok(variables)
}

/// `90`, `90s`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let parsed = seconds
        .map_or_else(
            || crate::model::parse_duration(text),
            |seconds| Duration::try_from_secs_f64(seconds).ok(),
        )
        .ok_or("expected a time such as 90s, 5m or 1h30m")?;
    if parsed.is_zero() {
        return Err("the time limit must be longer than nothing".into());
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_checked_and_passed_exactly() {
        let given = ["A=b=c".to_owned(), "E=".to_owned()];
        let variables = variables(&given).unwrap();
        assert_eq!(variables["A"], "b=c");
        assert_eq!(variables["E"], "");
        for bad in ["=x", "1A=x", "A B=x"] {
            assert!(super::variables(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
