//! `pixels man`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::command;
use crate::ui::Ui;

/// Print the manual page, or write all manual pages to a folder
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels man | man -l -"
    "pixels man --dir ~/.local/share/man/man1"
))]
pub struct ManArgs {
    /// Write pixels.1, pixels-create.1 and so on to this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    pub fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        match &self.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
                clap_mangen::generate_to(command(), dir)
                    .with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(command()).render(&mut page)?;
                ui.raw(&page);
            }
        }
        Ok(())
    }
}
