//! `pixels push`, `pull` and `sync`: the code that they share.

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
use crate::model::{Error, Guest, Instance, Name};
use crate::transfer::{Ownership, Report, TransferProgress};
use crate::ui::{self, ProgressBar};

/// The record of a pixel. Fails for a privileged pixel.
async fn get_unprivileged(context: &Context, name: &Name) -> Result<Instance, Error> {
    let backend = context.backend()?;
    let instance = context.unless_interrupted(backend.get(name)).await?;
    lifecycle::ensure_unprivileged(&instance)?;
    Ok(instance)
}

struct TransferUsers {
    /// Relative paths in the pixel start at the home of this user.
    default: User,
    /// Owner of transferred files in the pixel.
    owner: User,
}

impl TransferUsers {
    /// `owner`: the value of `--owner`, else the pixel's default user.
    async fn lookup(
        context: &Context,
        guest: &dyn Guest,
        instance: &Instance,
        owner: Option<&str>,
    ) -> Result<Self, Error> {
        let default = User::default_for(instance);
        let owner = match owner {
            Some(owner) => {
                context
                    .unless_interrupted(User::lookup(guest, owner))
                    .await?
            }
            None => default.clone(),
        };
        Ok(Self { default, owner })
    }

    fn ownership(&self, archive: bool) -> Ownership {
        if archive {
            Ownership::Kept
        } else {
            Ownership::One(self.owner.ids)
        }
    }
}

/// A unique name for temporary files of a transfer, hidden from a plain `ls`.
fn transfer_id() -> String {
    format!(".pixels-{}", Creator::new().id())
}

/// Whether the user wrote a directory: `a/`.
fn is_directory_form(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || text.ends_with(b"/.") || text == b"."
}

fn progress_bar(context: &Context, progress: &Arc<TransferProgress>) -> ProgressBar {
    let progress = Arc::clone(progress);
    context
        .ui
        .progress_bar(move || (progress.done(), progress.total()))
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
