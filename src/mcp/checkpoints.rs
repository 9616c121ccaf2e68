//! Checkpoints of a sandbox: taken, listed, gone back to.

use super::error::{Error, Result};
use super::response::View;
use super::service::{Service, not_running, parse};
use super::state::Status;
use crate::lifecycle;
use crate::model::{Label, Name};

impl Service {
    /// Takes a checkpoint of the disk; work in the sandbox goes on meanwhile.
    pub async fn checkpoint(&self, name: &str, label: Option<&str>) -> Result<String> {
        let (_, pixel, _shared) = self.lock_for_use(name).await?;
        let label = match label {
            Some(label) => parse::<Label>(label)?,
            None => {
                let now = (self.clock)();
                parse(&format!("mcp-{}", now.unix_timestamp_nanos() / 1_000_000))?
            }
        };
        self.backend.checkpoint(&pixel, &label, None).await?;
        Ok(label.to_string())
    }

    /// Puts the disk back; what runs in the sandbox ends.
    pub async fn restore(&self, name: &str, label: &str) -> Result<View> {
        let label = parse::<Label>(label)?;
        let slot = self.lock_of(name)?;
        slot.interrupt();
        let _alone = slot.write().await;
        let record = self.record(name)?;
        if record.status == Status::Provisioning {
            return Err(not_running(&record));
        }
        let pixel = parse(name)?;
        self.has_checkpoint(&pixel, &label).await?;
        let lost = self.backend.newer_checkpoints(&pixel, &label).await?;
        if !lost.is_empty() {
            return Err(Error::Invalid(format!(
                "restoring {label} would destroy the newer checkpoints {}: that is for the \
                 person who runs this server",
                lost.join(", ")
            )));
        }
        let gateway = &self.base_builder.defaults.gateway;
        lifecycle::restore(&*self.backend, gateway, &pixel, &label).await?;
        let now = (self.clock)();
        self.update(name, |record| record.last_activity_at = now);
        self.view(name)
    }

    /// Refuses a label that there is not, and names those there are.
    pub(super) async fn has_checkpoint(&self, pixel: &Name, label: &Label) -> Result<()> {
        let known = self.checkpoints(pixel.as_str()).await?;
        if known.iter().any(|one| one == label.as_str()) {
            return Ok(());
        }
        let (sandbox, label) = (pixel.as_str(), label.as_str());
        Err(Error::invalid(if known.is_empty() {
            format!("sandbox {sandbox:?} has no checkpoint: checkpoint_sandbox takes one")
        } else {
            let known = known.join(", ");
            format!("sandbox {sandbox:?} has no checkpoint {label:?}; it has: {known}")
        }))
    }

    pub async fn checkpoints(&self, name: &str) -> Result<Vec<String>> {
        let all = self.backend.checkpoints(&parse(name)?).await?;
        let lasting = all.into_iter().filter(|it| !it.temporary);
        Ok(lasting.map(|it| it.label.to_string()).collect())
    }
}
