//! `pixels console`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{Context, complete, exec};
use crate::exit::Usage;
use crate::lifecycle::{Exec, Login};
use crate::sandbox::{Name, Status};
use crate::term;

/// Open a shell in a pixel, starting it when it is stopped
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    #[arg(add = ArgValueCandidates::new(complete::pixels))]
    name: Name,
    /// A plain shell that ends with the connection
    #[arg(long)]
    no_persist: bool,
}

impl ConsoleArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        if !term::interactive() {
            return Err(Usage(format!(
                "console needs a terminal; to run a command without one: pixels exec {} -- COMMAND",
                self.name
            ))
            .into());
        }
        if !self.no_persist {
            context.ui.hint("This shell ends with the connection.");
        }
        open(context, &self.name).await
    }
}

/// A login shell on our terminal.
pub async fn open(context: &Context, name: &Name) -> anyhow::Result<()> {
    let sandbox = context.sandbox()?;
    let mut instance = context.unless_interrupted(sandbox.get(name)).await?;
    if instance.status == Status::Stopped {
        context.ui.say(&format!("Starting {name}..."));
        context.unless_interrupted(sandbox.start(name)).await?;
        instance = context.unless_interrupted(sandbox.get(name)).await?;
    }
    exec::usable(&instance)?;
    let guest = sandbox.guest(name);
    // bash where the pixel has it; as a login shell either reads the profile.
    let shell = "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi";
    let wish = Exec {
        argv: ["sh", "-c", shell].map(str::to_owned).to_vec(),
        login: Login::default_for(&instance),
        env: Default::default(),
        cwd: None,
        tty: Some(term::size()),
        timeout: None,
    };
    exec::attach(context, &*guest, wish).await
}
