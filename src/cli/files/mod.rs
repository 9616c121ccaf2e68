//! `pixels push`, `pull` and `sync`: shared code.

mod path_arg;
mod pull;
mod push;
mod sync;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

pub use pull::PullArgs;
pub use push::PushArgs;
pub use sync::SyncArgs;

use super::Context;
use crate::lifecycle::{self, Creator, User};
use crate::model::{Error, Guest, Ids, Instance, Name};
use crate::transfer::{GuestPath, Ownership, Report, TransferProgress};
use crate::ui::{self, ProgressBar};

/// Reads the record of a pixel. Fails for a privileged pixel.
async fn get_unprivileged(context: &Context, name: &Name) -> Result<Instance, Error> {
    let instance = context.get(name).await?;
    lifecycle::ensure_unprivileged(&instance)?;
    Ok(instance)
}

/// The pixel's side of a file transfer.
struct Remote<'a> {
    guest: Box<dyn Guest + 'a>,
    path: GuestPath,
    /// Ownership of transferred files in the pixel.
    ownership: Ownership,
    /// Owner of parent folders that the transfer creates in the pixel.
    owner: Ids,
}

impl<'a> Remote<'a> {
    /// Opens a transfer. A relative `path` starts at the default user's home.
    /// `owner` is the value of `--owner`. `archive` keeps owners of files. Fails
    /// for another owner than the default user if the pixel does not allow that.
    async fn open(
        context: &'a Context,
        instance: &'a Instance,
        path: &str,
        owner: Option<&str>,
        archive: bool,
    ) -> Result<Self, Error> {
        let guest = lifecycle::file_access(context.backend()?, instance);
        let default = User::default_for(instance);
        let owner = match owner {
            None => default.ids,
            Some(owner) => {
                let lookup = User::lookup(&*guest, owner);
                context.unless_interrupted(lookup).await?.ids
            }
        };
        if owner != default.ids {
            lifecycle::ensure_can_set_owner(instance)?;
        }
        Ok(Self {
            guest,
            path: GuestPath::parse(path, &default.home)?,
            ownership: match archive {
                true => Ownership::Kept,
                false => Ownership::One(owner),
            },
            owner,
        })
    }
}

/// Returns a unique name for temporary files, hidden from plain `ls`.
fn transfer_id() -> String {
    format!(".pixels-{}", Creator::new().id())
}

/// Whether the path ends with a slash, as in `a/`.
fn is_directory_form(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || text.ends_with(b"/.") || text == b"."
}

fn progress_bar(context: &Context, progress: &Arc<TransferProgress>) -> ProgressBar {
    let progress = Arc::clone(progress);
    let ui = context.ui;
    ui.progress_bar(move || (progress.done(), progress.total()))
}

/// Prints the result of a `push` or `pull`.
fn print_report(context: &Context, verb: &str, to: &str, report: &Report, started: Instant) {
    print_warnings(context, report);
    let elapsed = started.elapsed();
    let files = match report.files {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    context.ui.done(
        &format!(
            "{verb} {files}, {}, to {to} in {}",
            ui::bytes(report.bytes),
            ui::elapsed(elapsed)
        ),
        &json!({
            "to": to,
            "files": report.files,
            "bytes": report.bytes,
            "skipped": report.skipped,
            "elapsed_ms": ui::milliseconds(elapsed),
        }),
    );
}

fn print_warnings(context: &Context, report: &Report) {
    for line in report.notes.lines() {
        context.ui.warn(line);
    }
    if report.skipped > 0 {
        context.ui.warn(&format!(
            "skipped {} devices, sockets or pipes",
            report.skipped
        ));
    }
}
