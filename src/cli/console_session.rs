//! Opens a console on this terminal, for `console` and `create --console`.

use super::attach::attach;
use super::{Context, from_settings};
use crate::config;
use crate::lifecycle::session::{self, Multiplexer};
use crate::lifecycle::{self, ExecOptions, User};
use crate::model::{Name, Status};
use crate::provision::{Report, StepState};
use crate::term;

pub const DEFAULT_NAME: &str = "console";

/// Opens a session of a pixel or attaches to an existing session. Starts a
/// stopped pixel. Without `persist`, opens a plain shell.
pub async fn open(
    context: &Context,
    name: &Name,
    session: &str,
    persist: bool,
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let mut instance = context.get(name).await?;
    if instance.status == Status::Stopped {
        context.ui.status(&format!("Starting {name}..."));
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        lifecycle::start(backend, context.cancel(), &gateway_spec, name, &|_| {}).await?;
        instance = context.get(name).await?;
    }
    lifecycle::ensure_running(&instance)?;
    let guest = backend.guest(name);
    let user = User::default_for(&instance);
    let accepted: &[Multiplexer] = match context.settings().console.multiplexer {
        _ if !persist => &[],
        config::Multiplexer::Auto => &[Multiplexer::Zmx, Multiplexer::Tmux],
        config::Multiplexer::Zmx => &[Multiplexer::Zmx],
        config::Multiplexer::Tmux => &[Multiplexer::Tmux],
        config::Multiplexer::None => &[],
    };
    let spinner = context.ui.spinner();
    spinner.step("opening the session");
    let on_report = |report: &Report| {
        if let Some(step) = report.steps.iter().find(|s| s.status == StepState::Running) {
            spinner.step(&format!("waiting for the multiplexer ({})", step.name));
        }
    };
    let waiting =
        lifecycle::wait_for_multiplexer(backend, &*guest, &instance, &user, accepted, &on_report);
    let multiplexer = context.unless_interrupted(waiting).await?;
    drop(spinner);
    if multiplexer.is_none() && !accepted.is_empty() {
        context.ui.status(
            "The pixel has no multiplexer (zmx or tmux): this shell ends with the connection.",
        );
    }
    let options = ExecOptions {
        argv: session::attach(multiplexer, session),
        user,
        env: Default::default(),
        cwd: None,
        tty: Some(term::size()),
        timeout: None,
    };
    attach(context, &*guest, options, None).await
}
