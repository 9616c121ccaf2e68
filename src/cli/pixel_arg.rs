//! The argument that names an existing pixel.

use clap::Args;

use super::completions;
use crate::model::Name;

// A doc comment here would replace the description of the command.
#[derive(Debug, Args)]
pub struct PixelArg {
    /// Name of the pixel
    #[arg(add = completions::pixels())]
    pub name: Name,
}
