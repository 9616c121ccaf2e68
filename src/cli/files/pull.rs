//! `pixels pull`

use std::io::{ErrorKind, IsTerminal};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::path_arg::PathArg;
use super::{local_target, login, ownership, progress_bar, report_transfer, running_or_stopped};
use crate::cli::{Context, completions};
use crate::exit::Usage;
use crate::model::Error;
use crate::term::StdoutWriter;
use crate::transfer::{self, GuestPath, Pull, Report, TransferProgress};

/// Copy files and folders out of a pixel
///
/// Like cp -r: into DEST when it is a folder or ends with /, else as DEST.
/// PATH/. means what is in the folder PATH; a relative PATH begins at the home
/// of the pixel's user. Links are copied as links, and nothing is ever written
/// outside DEST. A file is either there whole or not at all.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Files and folders in a pixel
    #[arg(required = true, value_name = "NAME:PATH", add = ArgValueCompleter::new(completions::places))]
    sources: Vec<PathArg>,
    /// Where to, here; - writes one file to stdout
    #[arg(value_name = "DEST", add = ArgValueCompleter::new(completions::places))]
    target: PathArg,
    /// Keep the numbers of owner and group, and set-user-ID bits (as root)
    #[arg(short, long)]
    archive: bool,
}

impl PullArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let begun = Instant::now();
        let several = self.sources.len() > 1;
        let mut sources = Vec::new();
        for source in self.sources {
            sources.push(source.into_pixel("a source")?);
        }
        if self.target == PathArg::Stream && several {
            return Err(Usage("- takes one file".into()).into());
        }
        let meter = Arc::new(TransferProgress::default());
        let mut total = Report::default();
        for (name, path) in sources {
            let instance = running_or_stopped(context, &name).await?;
            let guest = context.backend()?.guest(&name);
            let (home, owner) = login(context, &*guest, &instance, None).await?;
            let source = GuestPath::parse(&path, &home.home)?;
            if self.target == PathArg::Stream {
                let stdout =
                    StdoutWriter::stdout().map_err(|e| Error::io("opening our output", e))?;
                let fate = stdout.fate();
                let read = transfer::read(&*guest, context.cancel(), &source, stdout).await;
                return match fate.loss() {
                    // What the reader wanted, it has.
                    Some(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                    // The pixel only saw a closed pipe.
                    Some(error) => Err(Error::io("writing to stdout", error).into()),
                    None => Ok(read?),
                };
            }
            let options = Pull {
                source,
                target: local_target(self.target.clone().into_local("the destination")?),
                several,
                ownership: ownership(self.archive, &owner),
                sized: std::io::stderr().is_terminal(),
            };
            let bar = progress_bar(context, &meter);
            let report = transfer::pull(&*guest, context.cancel(), &options, &meter).await;
            drop(bar);
            total.add(report?);
        }
        let to = self
            .target
            .into_local("the destination")?
            .display()
            .to_string();
        report_transfer(context, "Pulled", &to, &total, begun);
        Ok(())
    }
}
