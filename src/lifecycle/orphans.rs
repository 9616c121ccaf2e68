//! Orphans: incomplete instances and temporary checkpoints of interrupted
//! commands, and expired pixels.

use serde::Serialize;
use time::OffsetDateTime;

use super::checkpoint::delete_temporary;
use super::creator::{Creator, CreatorState};
use super::gateway::{self, GatewaySpec};
use super::{expiry, optional, provisioning};
use crate::model::{Backend, Instance, Name, Result};

/// Seconds after which an unfinished creator on another machine counts as
/// exited.
const CREATION_TIMEOUT_SECONDS: i64 = 60 * 60;

/// An instance or checkpoint to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Orphan {
    /// A pixel whose creation was interrupted.
    Pixel { name: String },
    /// A pixel whose expiry is in the past.
    Expired { name: String },
    /// A gateway whose creation was interrupted. It has forwarded no packets.
    Gateway { name: String },
    /// A temporary checkpoint of a command that has exited.
    Checkpoint { name: String, label: String },
}

impl std::fmt::Display for Orphan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pixel { name } => write!(f, "incomplete pixel {name}"),
            Self::Expired { name } => write!(f, "expired pixel {name}"),
            Self::Gateway { name } => write!(f, "incomplete gateway {name}"),
            Self::Checkpoint { name, label } => write!(f, "temporary checkpoint {label} of {name}"),
        }
    }
}

/// Finds expired pixels, and incomplete instances and temporary checkpoints
/// whose creators have exited. Excludes objects that a running command uses.
/// `gateway_spec` is the gateway of the settings.
pub async fn find_orphans(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
) -> Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    if gateway::is_incomplete(backend, gateway_spec).await? {
        let name = gateway_spec.name.instance();
        orphans.push(Orphan::Gateway { name });
    }
    for pixel in backend.list().await? {
        let name = pixel.name.to_string();
        if may_be_incomplete(&pixel) {
            if is_incomplete(backend, &pixel.name).await? {
                orphans.push(Orphan::Pixel { name });
            }
            continue;
        }
        if expiry::is_expired(&pixel) {
            orphans.push(Orphan::Expired { name });
            continue;
        }
        // Another command may have deleted the pixel since it was listed.
        let checkpoints = optional(backend.checkpoints(&pixel.name).await)?.unwrap_or_default();
        for checkpoint in checkpoints.iter().filter(|c| c.temporary) {
            let creator = checkpoint.label.temporary_id();
            if creator.and_then(Creator::state_of_id) == Some(CreatorState::Exited)
                || is_overdue(checkpoint.created_at)
            {
                orphans.push(Orphan::Checkpoint {
                    name: name.clone(),
                    label: checkpoint.label.to_string(),
                });
            }
        }
    }
    Ok(orphans)
}

/// Whether the creation of a pixel is unfinished. The creator may still be
/// running. Other programs create pixels without a recorded creator.
pub fn may_be_incomplete(pixel: &Instance) -> bool {
    Creator::recorded_on(pixel)
        .is_some_and(|creator| !pixel.started_once || provisioning::is_applying(pixel, &creator))
}

/// Whether a pixel is incomplete and its creator has exited.
///
/// Reads the pixel again **after** the creator has exited and the server is
/// idle: the creator may have completed the pixel before exiting, and another
/// command may have created a new pixel with this name.
async fn is_incomplete(backend: &dyn Backend, name: &Name) -> Result<bool> {
    let read = async || {
        let pixel = optional(backend.get(name).await);
        pixel.map(|pixel| pixel.filter(may_be_incomplete))
    };
    let Some(pixel) = read().await? else {
        return Ok(false);
    };
    // A restore whose command was killed leaves the marks of the checkpoint.
    if pixel.started_once && !backend.checkpoints(name).await?.is_empty() {
        return Ok(false);
    }
    let creator = Creator::recorded_on(&pixel);
    let exited = match creator.as_ref().map(Creator::state) {
        Some(CreatorState::Exited) => true,
        Some(CreatorState::OtherMachine) => is_overdue(pixel.created_at),
        Some(CreatorState::Running) | None => false,
    };
    if !exited {
        return Ok(false);
    }
    backend.wait_idle(name).await?;
    let pixel = read().await?;
    Ok(pixel.is_some_and(|pixel| Creator::recorded_on(&pixel) == creator))
}

fn is_overdue(created_at: i64) -> bool {
    OffsetDateTime::now_utc().unix_timestamp() - created_at > CREATION_TIMEOUT_SECONDS
}

/// Deletes an orphan if it is still an orphan. Succeeds if the orphan does not
/// exist.
pub async fn remove_orphan(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    orphan: &Orphan,
) -> Result<()> {
    match orphan {
        Orphan::Pixel { name } => {
            let name = name.parse()?;
            if !is_incomplete(backend, &name).await? {
                return Ok(());
            }
            optional(backend.destroy(&name).await).map(drop)
        }
        Orphan::Expired { name } => {
            expiry::destroy_if_expired(backend, gateway_spec, &name.parse()?).await
        }
        Orphan::Gateway { .. } => gateway::remove_incomplete(backend, gateway_spec).await,
        Orphan::Checkpoint { name, label } => {
            delete_temporary(backend, &name.parse()?, &label.parse()?).await
        }
    }
}
