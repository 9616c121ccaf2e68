//! `pixels push`

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::path_arg::PathArg;
use super::{login, ownership, progress_bar, report_transfer, running_or_stopped, unique};
use crate::cli::{Context, completions};
use crate::exit::Usage;
use crate::transfer::{self, GuestPath, Push, TransferProgress};

/// Copy files and folders into a pixel
///
/// Like cp -r: into PATH when it is a folder or ends with /, else as PATH.
/// SRC/. means what is in the folder SRC; a relative PATH begins at the home of
/// the pixel's user. Links are copied as links. A file is either there whole or
/// not at all.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Files and folders here; - for what comes from stdin
    #[arg(required = true, value_name = "SRC", add = ArgValueCompleter::new(completions::places))]
    sources: Vec<PathArg>,
    /// Where to
    #[arg(value_name = "NAME:PATH", add = ArgValueCompleter::new(completions::places))]
    target: PathArg,
    /// User name, number or UID:GID the files belong to, by default the pixel's own user
    #[arg(long, value_name = "USER", conflicts_with = "archive")]
    owner: Option<String>,
    /// Keep the numbers of owner and group
    #[arg(short, long)]
    archive: bool,
    /// Mode of what comes from stdin
    #[arg(long, value_name = "OCTAL", default_value = "644", value_parser = mode)]
    mode: u32,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("expected an octal mode such as 755".into()),
    }
}

impl PushArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let begun = Instant::now();
        let (name, path) = self.target.into_pixel("the destination")?;
        let from_stdin = self.sources.contains(&PathArg::Stream);
        if from_stdin && self.sources.len() > 1 {
            return Err(Usage("- cannot be pushed together with files".into()).into());
        }
        let sources = self.sources.into_iter().filter(|_| !from_stdin);
        let sources = sources
            .map(|source| source.into_local("a source"))
            .collect::<Result<_, _>>()?;
        let instance = running_or_stopped(context, &name).await?;
        let guest = context.backend()?.guest(&name);
        let (home, owner) = login(context, &*guest, &instance, self.owner.as_deref()).await?;
        let options = Push {
            sources,
            target: GuestPath::parse(&path, &home.home)?,
            ownership: ownership(self.archive, &owner),
            owner: owner.ids,
            id: unique(),
        };
        let meter = Arc::new(TransferProgress::default());
        let bar = progress_bar(context, &meter);
        let cancel = context.cancel();
        let report = if from_stdin {
            transfer::write(
                &*guest,
                cancel,
                &options,
                self.mode,
                tokio::io::stdin(),
                &meter,
            )
            .await
        } else {
            transfer::push(&*guest, cancel, &options, &meter).await
        };
        drop(bar);
        let to = format!("{name}:{}", options.target.path);
        report_transfer(context, "Pushed", &to, &report?, begun);
        Ok(())
    }
}
