//! The pixel a base is built in: from an image as `pixels create` makes one,
//! or a clone of the parent base.

use tokio_util::sync::CancellationToken;

use super::build::WORK;
use super::{BaseBuilder, BuildObserver, Error, Result};
use crate::config::{Base, EgressMode, Parent};
use crate::egress::{Mode, Policy};
use crate::lifecycle::{self, Create, Fork, Names};
use crate::model::{Backend, Limits, Name};

impl BaseBuilder {
    /// The pixel to build in, running.
    pub(super) async fn create_build_pixel(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
        config: &Base,
        work: &Name,
        watch: &BuildObserver,
    ) -> Result<()> {
        let failed = |source| Error::Lifecycle {
            base: base.into(),
            source,
        };
        let defaults = &self.defaults;
        let policy = self.policy(config);
        let mark = (WORK.to_owned(), work.to_string());
        let progress = |phase: &str| watch.step(base, phase);
        match &config.parent {
            Parent::Image(image) => {
                let mut properties = defaults
                    .network
                    .new_policy_properties(&policy, defaults.plan.is_some());
                properties.extend([mark]);
                let image = defaults
                    .resolve_image(backend, image)
                    .await
                    .map_err(Error::about(base))?;
                let options = Create {
                    name: work.clone(),
                    image,
                    limits: defaults.limits.clone(),
                    properties,
                    provision: defaults.plan.clone(),
                    network: defaults.network.clone(),
                };
                lifecycle::create(backend, cancel, options, &progress)
                    .await
                    .map_err(failed)
            }
            Parent::Base(parent) => {
                let from = self
                    .ready_checkpoint(backend, parent)
                    .await?
                    .ok_or_else(|| Error::InTheWay {
                        base: parent.clone(),
                        pixel: self
                            .pixel(parent)
                            .map(|it| it.to_string())
                            .unwrap_or_default(),
                    })?;
                let mut properties =
                    lifecycle::clone_policy_properties(backend, Some(&policy), &policy, &from)
                        .await
                        .map_err(Error::about(base))?;
                properties.extend([mark]);
                let options = Fork {
                    from,
                    names: Names::One(work.clone()),
                    limits: Limits::default(),
                    properties,
                    network: defaults.network.clone(),
                };
                lifecycle::fork(backend, cancel, options, &progress, &|_| {})
                    .await
                    .map_err(failed)
            }
        }
    }

    fn policy(&self, config: &Base) -> Policy {
        self.defaults.policy.in_mode(match config.egress {
            EgressMode::Unrestricted => Mode::Unrestricted,
            EgressMode::Agent => Mode::Agent,
            EgressMode::Allowlist => Mode::Allowlist,
        })
    }
}
