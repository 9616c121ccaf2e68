//! What killed commands left behind: instances that were never started, and
//! checkpoints meant for one command.

use serde::Serialize;
use time::OffsetDateTime;

use super::claim::{Claim, Maker};
use super::provisioning;
use super::rollback::remove_checkpoint;
use crate::sandbox::{Instance, Label, Name, Result, Sandbox};

/// A maker on another machine that has not finished within this many seconds
/// is taken for dead.
const ELSEWHERE: i64 = 60 * 60;

/// One thing a killed command left on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Leftover {
    /// Half-made: its creation was cut off before the first start.
    Pixel { name: String },
    /// Taken for the duration of a command.
    Checkpoint { name: String, label: String },
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pixel { name } => write!(f, "pixel {name}, never finished"),
            Self::Checkpoint { name, label } => write!(f, "temporary checkpoint {label} of {name}"),
        }
    }
}

/// Everything on the server whose maker is dead; nothing that a running
/// command still works on, and nothing a user made.
pub async fn find(sandbox: &dyn Sandbox) -> Result<Vec<Leftover>> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut found = Vec::new();
    for pixel in sandbox.list().await? {
        if half_made(&pixel, now) {
            found.push(Leftover::Pixel {
                name: pixel.name.to_string(),
            });
            continue;
        }
        let checkpoints = match sandbox.checkpoints(&pixel.name).await {
            Ok(checkpoints) => checkpoints,
            // Destroyed since it was listed.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for checkpoint in checkpoints.iter().filter(|c| c.temporary) {
            if abandoned(&checkpoint.label) || now - checkpoint.created_at > ELSEWHERE {
                found.push(Leftover::Checkpoint {
                    name: pixel.name.to_string(),
                    label: checkpoint.label.to_string(),
                });
            }
        }
    }
    Ok(found)
}

fn half_made(pixel: &Instance, now: i64) -> bool {
    if pixel.started_once && !provisioning::cut_off(pixel) {
        return false;
    }
    // Without a claim, somebody made it by other means.
    let Some(claim) = Claim::on(pixel) else {
        return false;
    };
    match claim.maker() {
        Maker::Alive => false,
        Maker::Dead => true,
        Maker::Elsewhere => now - pixel.created_at > ELSEWHERE,
    }
}

/// The label carries the process that took it.
fn abandoned(label: &Label) -> bool {
    label.temporary_id().and_then(Claim::maker_of) == Some(Maker::Dead)
}

/// Removes one leftover. Already gone counts as done.
pub async fn remove(sandbox: &dyn Sandbox, leftover: &Leftover) -> Result<()> {
    let parse = |text: &str| {
        text.parse::<Name>()
            .map_err(|e| crate::sandbox::Error::Invalid(e.to_string()))
    };
    match leftover {
        Leftover::Pixel { name } => {
            let name = parse(name)?;
            sandbox.settle(&name).await?;
            match sandbox.destroy(&name).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            }
        }
        Leftover::Checkpoint { name, label } => {
            let label: Label = label.parse().map_err(|e: crate::sandbox::InvalidName| {
                crate::sandbox::Error::Invalid(e.to_string())
            })?;
            remove_checkpoint(sandbox, &parse(name)?, &label).await
        }
    }
}
