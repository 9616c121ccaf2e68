//! `pixels console`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{Context, completions, exec, from_settings};
use crate::config;
use crate::exit::Usage;
use crate::lifecycle::session::{self, Multiplexer, MultiplexerChoice};
use crate::lifecycle::{self, ExecOptions, User, provisioning};
use crate::model::{Backend, Guest, Instance, Name, Status};
use crate::provision::{Overall, Report, StepState};
use crate::term;
use crate::ui::Spinner;

/// The session nobody named.
pub const SESSION: &str = "console";

/// Open a shell in a pixel that survives the connection
///
/// Starts a stopped pixel. Ctrl+\ or the word detach leave the session
/// running; the same command comes back to it.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Name of the session
    #[arg(short, long, default_value = SESSION)]
    session: String,
    /// A plain shell that ends with the connection
    #[arg(long)]
    no_persist: bool,
}

impl ConsoleArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        if !self.no_persist {
            session::check_name(&self.session)?;
        }
        if !term::interactive() {
            return Err(Usage(format!(
                "console needs a terminal; to run a command without one: pixels exec {} -- COMMAND",
                self.name
            ))
            .into());
        }
        open(context, &self.name, &self.session, !self.no_persist).await
    }
}

/// Opens or joins a session on our terminal.
pub async fn open(
    context: &Context,
    name: &Name,
    session: &str,
    persist: bool,
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let mut instance = context.unless_interrupted(backend.get(name)).await?;
    if instance.status == Status::Stopped {
        context.ui.status(&format!("Starting {name}..."));
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        lifecycle::start(backend, context.cancel(), &gateway_spec, name, &|_| {}).await?;
        instance = context.unless_interrupted(backend.get(name)).await?;
    }
    exec::ensure_running(&instance)?;
    let guest = backend.guest(name);
    let login = User::default_for(&instance);
    let wanted = match context.settings().console.multiplexer {
        _ if !persist => MultiplexerChoice::None,
        config::Multiplexer::Auto => MultiplexerChoice::Auto,
        config::Multiplexer::Zmx => MultiplexerChoice::Zmx,
        config::Multiplexer::Tmux => MultiplexerChoice::Tmux,
        config::Multiplexer::None => MultiplexerChoice::None,
    };
    let multiplexer =
        wait_for_multiplexer(context, backend, &*guest, &instance, &login, wanted).await?;
    if multiplexer.is_none() && wanted != MultiplexerChoice::None {
        context.ui.status(
            "The pixel has no session keeper (zmx or tmux): this shell ends with the connection.",
        );
    }
    let options = ExecOptions {
        argv: session::attach(multiplexer, session),
        user: login,
        env: Default::default(),
        cwd: None,
        tty: Some(term::size()),
        timeout: None,
    };
    exec::attach(context, &*guest, options, None).await
}

/// What will keep the session; where it is still being installed, waits.
async fn wait_for_multiplexer(
    context: &Context,
    backend: &dyn Backend,
    guest: &dyn Guest,
    instance: &Instance,
    login: &User,
    wanted: MultiplexerChoice,
) -> anyhow::Result<Option<Multiplexer>> {
    let find = session::find(guest, login, wanted);
    let found = context.unless_interrupted(find).await?;
    if found.is_some()
        || wanted == MultiplexerChoice::None
        || !provisioning::is_unfinished(instance)
    {
        return Ok(found);
    }
    let phases = context.ui.phases();
    let work = async {
        loop {
            let report = provisioning::observe(backend, instance).await?;
            print_hint(&phases, &report);
            let found = session::find(guest, login, wanted).await?;
            if found.is_some() || report.overall != Overall::Running {
                return Ok(found);
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    Ok(context.unless_interrupted(work).await?)
}

fn print_hint(phases: &Spinner, report: &Report) {
    let running = report.steps.iter().find(|s| s.status == StepState::Running);
    if let Some(step) = running {
        phases.step(&format!("waiting for the session keeper ({})", step.name));
    }
}
