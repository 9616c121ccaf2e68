//! `pixels pull`

use std::io::{ErrorKind, IsTerminal};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::path_arg::PathArg;
use super::{Remote, get_unprivileged, is_directory_form, print_report, progress_bar};
use crate::cli::{Context, completions};
use crate::exit::Usage;
use crate::model::Error;
use crate::term::StdoutWriter;
use crate::transfer::{self, Pull, Report, TransferProgress};

/// Copy files and folders out of a pixel
///
/// Works like cp -r: into DEST if DEST is a folder or ends with /, else to that
/// name. PATH/. means the contents of the folder PATH; a relative PATH starts at the
/// home of the pixel's user. Links are copied as links, and nothing is written
/// outside DEST. An interrupted pull leaves the old file or no file.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels pull box:work/notes.txt copy.txt"
    "pixels pull box:work/src box:work/docs ."
    "pixels pull box:/etc/os-release - | head -n 1"
))]
pub struct PullArgs {
    /// Files and folders in a pixel
    #[arg(required = true, value_name = "NAME:PATH", add = completions::paths())]
    sources: Vec<PathArg>,
    /// Local destination; - writes a single file to stdout
    #[arg(value_name = "DEST", add = completions::paths())]
    target: PathArg,
    /// Preserve numeric owner and group, and setuid bits (as root)
    #[arg(short, long)]
    archive: bool,
}

impl PullArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let several = self.sources.len() > 1;
        let mut sources = Vec::new();
        for source in self.sources {
            sources.push(source.into_pixel("the source")?);
        }
        if self.target == PathArg::Stream && several {
            return Err(Usage("only a single file can be pulled to -".into()).into());
        }
        let progress = Arc::new(TransferProgress::default());
        let mut total = Report::default();
        for (name, path) in sources {
            let instance = get_unprivileged(context, &name).await?;
            let remote = Remote::open(context, &instance, &path, None, self.archive).await?;
            let (guest, source) = (remote.guest, remote.path);
            if self.target == PathArg::Stream {
                let stdout = StdoutWriter::stdout().map_err(|e| Error::io("opening stdout", e))?;
                let outcome = stdout.outcome();
                let read = transfer::read(&*guest, context.cancel(), &source, stdout).await;
                return match outcome.error() {
                    // A closed pipe is not an error.
                    Some(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                    // `read` returns only the error that its pipe is closed.
                    Some(error) => Err(Error::io("writing to stdout", error).into()),
                    None => Ok(read?),
                };
            }
            let target = self.target.clone().into_local("the destination")?;
            let options = Pull {
                source,
                into: several || is_directory_form(&target),
                target,
                ownership: remote.ownership,
                sized: std::io::stderr().is_terminal(),
            };
            let bar = progress_bar(context, &progress);
            let report = transfer::pull(&*guest, context.cancel(), &options, &progress).await;
            drop(bar);
            total.add(report?);
        }
        let target = self.target.into_local("the destination")?;
        let to = target.display().to_string();
        print_report(context, "Pulled", &to, &total, started);
        Ok(())
    }
}
