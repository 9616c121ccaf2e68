//! `pixels push`, `pull` and `sync`: what the three have in common.

mod path_arg;
mod pull;
mod push;
mod sync;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

pub use pull::PullArgs;
pub use push::PushArgs;
pub use sync::SyncArgs;

use super::{Context, exec};
use crate::lifecycle::{Creator, User};
use crate::model::{Error, Guest, Instance, Name};
use crate::transfer::{LocalTarget, Ownership, Report, TransferProgress};
use crate::ui::{self, ProgressBar};

/// The pixel, once it is known to be one that files can be exchanged with.
async fn running_or_stopped(context: &Context, name: &Name) -> Result<Instance, Error> {
    let backend = context.backend()?;
    let instance = context.unless_interrupted(backend.get(name)).await?;
    exec::ensure_unprivileged(&instance)?;
    Ok(instance)
}

/// Whose the files are in the pixel, and where its relative paths begin.
async fn login(
    context: &Context,
    guest: &dyn Guest,
    instance: &Instance,
    owner: Option<&str>,
) -> Result<(User, User), Error> {
    let home = User::default_for(instance);
    let owner = match owner {
        Some(owner) => {
            context
                .unless_interrupted(User::lookup(guest, owner))
                .await?
        }
        None => home.clone(),
    };
    Ok((home, owner))
}

fn ownership(archive: bool, owner: &User) -> Ownership {
    if archive {
        Ownership::Kept
    } else {
        Ownership::One(owner.ids)
    }
}

/// A name that no other transfer uses, hidden from a plain `ls`.
fn unique() -> String {
    format!(".pixels-{}", Creator::new().id())
}

fn local_target(path: PathBuf) -> LocalTarget {
    let text = path.as_os_str().as_encoded_bytes();
    LocalTarget {
        directory: text.ends_with(b"/") || text.ends_with(b"/.") || text == b".",
        path,
    }
}

fn progress_bar(context: &Context, meter: &Arc<TransferProgress>) -> ProgressBar {
    let meter = Arc::clone(meter);
    context.ui.bar(move || (meter.done(), meter.total()))
}

/// Tells what came of it.
fn report_transfer(context: &Context, verb: &str, to: &str, report: &Report, begun: Instant) {
    warn(context, report);
    let took = begun.elapsed();
    let files = match report.files {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    context.ui.done(
        &format!(
            "{verb} {files}, {}, to {to} in {}",
            ui::bytes(report.bytes),
            ui::elapsed(took)
        ),
        &json!({
            "to": to,
            "files": report.files,
            "bytes": report.bytes,
            "skipped": report.skipped,
            "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }),
    );
}

fn warn(context: &Context, report: &Report) {
    for line in report.notes.lines() {
        context.ui.warn(line);
    }
    if report.skipped > 0 {
        context.ui.warn(&format!(
            "{} devices, sockets or pipes were left out",
            report.skipped
        ));
    }
}
