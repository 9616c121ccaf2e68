//! `pixels console`

use clap::Args;

use super::pixel_arg::PixelArg;
use super::{Context, console_session};
use crate::exit::Usage;
use crate::lifecycle::session;
use crate::term;

/// Open a persistent shell session in a pixel
///
/// Starts a stopped pixel. Detach with Ctrl+\ or the command detach; the same
/// pixels command reattaches.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels console box"
    "pixels console box --session build"
    "pixels console box --no-persist"
))]
pub struct ConsoleArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Name of the session
    #[arg(short, long, default_value = console_session::DEFAULT_NAME)]
    session: String,
    /// Open a plain shell that ends with the connection
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
                "console needs a terminal; to run a command without a terminal: \
                 pixels exec {} -- COMMAND",
                self.pixel.name
            ))
            .into());
        }
        console_session::open(context, &self.pixel.name, &self.session, !self.no_persist).await
    }
}
