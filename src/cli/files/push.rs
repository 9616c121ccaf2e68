//! `pixels push`

use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::path_arg::PathArg;
use super::{Remote, get_unprivileged, print_report, progress_bar, transfer_id};
use crate::cli::{Context, completions};
use crate::exit::Usage;
use crate::lifecycle;
use crate::transfer::{self, Push, TransferProgress};

/// Copy files and folders into a pixel
///
/// Works like cp -r: into PATH if PATH is a folder or ends with /, else to that
/// name. SRC/. means the contents of the folder SRC; a relative PATH starts at the
/// home of the pixel's user. Links are copied as links. An interrupted push leaves
/// the old file or no file.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels push notes.txt src box:work/"
    "pixels push . box:work"
    "echo hello | pixels push - box:hello.txt --mode 600"
))]
pub struct PushArgs {
    /// Local files and folders; - reads a single file from stdin
    #[arg(required = true, value_name = "SRC", add = completions::paths())]
    sources: Vec<PathArg>,
    /// Destination in a pixel
    #[arg(value_name = "NAME:PATH", add = completions::paths())]
    target: PathArg,
    /// Owner of the files: user name, UID or UID:GID [default: the pixel's user]
    #[arg(long, value_name = "USER", conflicts_with = "archive")]
    owner: Option<String>,
    /// Preserve numeric owner and group
    #[arg(short, long)]
    archive: bool,
    /// Mode of a file from stdin
    #[arg(long, value_name = "OCTAL", default_value = "644", value_parser = parse_mode)]
    mode: u32,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("expected an octal mode such as 755".into()),
    }
}

impl PushArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let (name, path) = self.target.into_pixel("the destination")?;
        let from_stdin = self.sources.contains(&PathArg::Stream);
        if from_stdin && self.sources.len() > 1 {
            return Err(Usage("- cannot be combined with other sources".into()).into());
        }
        let sources = self.sources.into_iter().filter(|_| !from_stdin);
        let sources = sources
            .map(|source| source.into_local("the source"))
            .collect::<Result<_, _>>()?;
        let instance = get_unprivileged(context, &name).await?;
        if self.archive {
            lifecycle::ensure_can_set_owner(&instance)?;
        }
        let owner = self.owner.as_deref();
        let remote = Remote::open(context, &instance, &path, owner, self.archive).await?;
        let guest = remote.guest;
        let options = Push {
            sources,
            target: remote.path,
            ownership: remote.ownership,
            owner: remote.owner,
            id: transfer_id(),
        };
        let progress = Arc::new(TransferProgress::default());
        let bar = progress_bar(context, &progress);
        let cancel = context.cancel();
        let report = if from_stdin {
            let stdin = tokio::io::stdin();
            transfer::write(&*guest, cancel, &options, self.mode, stdin, &progress).await
        } else {
            transfer::push(&*guest, cancel, &options, &progress).await
        };
        drop(bar);
        let to = format!("{name}:{}", options.target.path);
        print_report(context, "Pushed", &to, &report?, started);
        Ok(())
    }
}
