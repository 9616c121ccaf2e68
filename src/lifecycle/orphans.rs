//! What killed commands left behind: instances that were never started, and
//! checkpoints meant for one command; and pixels whose time is over.

use serde::Serialize;
use time::OffsetDateTime;

use super::creator::{Creator, CreatorState};
use super::expiry;
use super::gateway::{self, GatewaySpec};
use super::provisioning;
use super::rollback::remove_checkpoint;
use crate::model::{Backend, Error, Instance, InvalidName, Label, Name, Result};

/// A maker on another machine that has not finished within this many seconds
/// is taken for dead.
const ELSEWHERE: i64 = 60 * 60;

/// One thing on the server that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Orphan {
    /// Half-made: its creation was cut off before the first start.
    Pixel { name: String },
    /// Its time is over.
    Expired { name: String },
    /// Half-made, before it let anything through.
    Gateway { name: String },
    /// Taken for the duration of a command.
    Checkpoint { name: String, label: String },
}

impl std::fmt::Display for Orphan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pixel { name } => write!(f, "pixel {name}, never finished"),
            Self::Expired { name } => write!(f, "pixel {name}, whose time is over"),
            Self::Gateway { name } => write!(f, "gateway {name}, never finished"),
            Self::Checkpoint { name, label } => write!(f, "temporary checkpoint {label} of {name}"),
        }
    }
}

/// Everything on the server whose maker is dead or whose time is over; nothing
/// that a running command still works on, and nothing else a user made.
/// `like`: the gateway of the settings.
pub async fn find(backend: &dyn Backend, gateway_spec: &GatewaySpec) -> Result<Vec<Orphan>> {
    let mut found = Vec::new();
    if gateway::is_incomplete(backend, gateway_spec).await? {
        let name = gateway_spec.name.instance();
        found.push(Orphan::Gateway { name });
    }
    for pixel in backend.list().await? {
        if may_be_incomplete(&pixel) {
            if let Some(name) = incomplete_creator(backend, &pixel.name).await? {
                found.push(Orphan::Pixel { name });
            }
            continue;
        }
        if expiry::is_expired(&pixel) {
            let name = pixel.name.to_string();
            found.push(Orphan::Expired { name });
            continue;
        }
        let checkpoints = match backend.checkpoints(&pixel.name).await {
            Ok(checkpoints) => checkpoints,
            // Destroyed since it was listed.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for checkpoint in checkpoints.iter().filter(|c| c.temporary) {
            if abandoned(&checkpoint.label) || now() - checkpoint.created_at > ELSEWHERE {
                found.push(Orphan::Checkpoint {
                    name: pixel.name.to_string(),
                    label: checkpoint.label.to_string(),
                });
            }
        }
    }
    Ok(found)
}

/// Whether its creation may have been cut off. Without a claim, somebody made
/// it by other means.
pub fn may_be_incomplete(pixel: &Instance) -> bool {
    Creator::recorded_on(pixel).is_some_and(|creator| {
        !pixel.started_once || provisioning::was_interrupted(pixel, &creator)
    })
}

/// Whether the pixel is a leftover for certain: its maker was dead already
/// **before** we looked at it, and the server is done with it. A maker that
/// finishes and exits between the two looks is not mistaken for one that died.
async fn incomplete_creator(backend: &dyn Backend, name: &Name) -> Result<Option<String>> {
    let look = async || match backend.get(name).await {
        Ok(pixel) if may_be_incomplete(&pixel) => Ok(Some(pixel)),
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    };
    let Some(first) = look().await? else {
        return Ok(None);
    };
    let creator = Creator::recorded_on(&first);
    let dead = match creator.as_ref().map(Creator::state) {
        Some(CreatorState::Dead) => true,
        Some(CreatorState::Elsewhere) => now() - first.created_at > ELSEWHERE,
        Some(CreatorState::Alive) | None => false,
    };
    if !dead {
        return Ok(None);
    }
    backend.wait_idle(name).await?;
    // The name may also have been taken anew by another command since.
    let same =
        |second: Instance| (Creator::recorded_on(&second) == creator).then(|| name.to_string());
    Ok(look().await?.and_then(same))
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// The label carries the process that took it.
fn abandoned(label: &Label) -> bool {
    label.temporary_id().and_then(Creator::state_of) == Some(CreatorState::Dead)
}

/// Removes one leftover. Already gone counts as done.
pub async fn remove(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    leftover: &Orphan,
) -> Result<()> {
    let invalid = |e: InvalidName| Error::Invalid(e.to_string().into());
    match leftover {
        Orphan::Pixel { name } => {
            let name: Name = name.parse().map_err(invalid)?;
            // Looked at again: it may have been finished or removed meanwhile.
            if incomplete_creator(backend, &name).await?.is_none() {
                return Ok(());
            }
            match backend.destroy(&name).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            }
        }
        Orphan::Expired { name } => {
            let name: Name = name.parse().map_err(invalid)?;
            expiry::remove(backend, gateway_spec, &name).await
        }
        Orphan::Gateway { .. } => gateway::remove_incomplete(backend, gateway_spec).await,
        Orphan::Checkpoint { name, label } => {
            let label: Label = label.parse().map_err(invalid)?;
            let name: Name = name.parse().map_err(invalid)?;
            remove_checkpoint(backend, &name, &label).await
        }
    }
}
