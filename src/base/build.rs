//! Builds a base: creates a pixel from the parent, sets up the pixel, clones it
//! with the name of the base, and deletes it.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::build_order::parents_of;
use super::log_tail::Sink;
use super::status::{BASE_KEY, PARENT_KEY, RECIPE_KEY, find_pixel, is_base};
use super::{BaseBuilder, Error, Result, recipe};
use crate::config::Parent;
use crate::file_lock::{FileLock, LockMode};
use crate::lifecycle::{self, Creator, CreatorState, optional};
use crate::model::{Backend, CloneSource, Label, Name, Properties, Status, unless_cancelled};

const LABEL: &str = "initial";
/// Property of the pixel in which a base is built: the name of that pixel.
pub(super) const BUILD_PIXEL_KEY: &str = "base-build";

/// Callbacks for the progress of a build.
#[derive(Clone)]
pub struct BuildObserver {
    /// Called with the name of each phase when the phase begins.
    pub phase: Sink,
    /// Called with each output line of the setup script.
    pub output: Sink,
}

/// The build of a base.
pub(super) struct Build<'a> {
    pub builder: &'a BaseBuilder,
    pub backend: &'a dyn Backend,
    pub cancel: &'a CancellationToken,
    pub base: &'a str,
    pub observer: &'a BuildObserver,
}

impl BaseBuilder {
    /// Builds a base and its parents if missing, and returns the checkpoint to
    /// clone. With `force`, rebuilds the base, and keeps the old base until the
    /// build has succeeded.
    ///
    /// On failure or cancellation, the pixel of the build is deleted, or the
    /// error lists it as a leftover.
    pub async fn build(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
        force: bool,
        observer: &BuildObserver,
    ) -> Result<CloneSource> {
        self.config(base)?;
        let build = |base| Build {
            builder: self,
            backend,
            cancel,
            base,
            observer,
        };
        for parent in parents_of(&self.bases, base) {
            build(parent).ensure(false).await?;
        }
        build(base).ensure(force).await
    }

    fn lock_path(&self, pixel: &Name) -> PathBuf {
        self.lock_dir.join(format!("{pixel}.lock"))
    }

    /// Takes the lock of a build. `None` if another process holds the lock.
    pub(super) fn try_lock(&self, pixel: &Name) -> Result<Option<FileLock>> {
        let path = self.lock_path(pixel);
        FileLock::try_acquire(&path, LockMode::Exclusive)
            .map_err(|source| Error::Lock { path, source })
    }

    /// Deletes the pixels of killed builds. Errors are only logged.
    pub async fn remove_interrupted_builds(&self, backend: &dyn Backend) {
        for base in self.bases.keys() {
            let Ok(pixel) = self.pixel(base) else {
                continue;
            };
            let Ok(Some(_lock)) = self.try_lock(&pixel) else {
                continue;
            };
            if let Err(error) = self.remove_interrupted_build(backend, base).await {
                tracing::warn!(base, %error, "cannot remove an interrupted build");
            }
        }
    }

    /// Deletes the pixel of a killed build. The caller holds the lock.
    async fn remove_interrupted_build(&self, backend: &dyn Backend, base: &str) -> Result<()> {
        let name = self.build_pixel(base)?;
        backend
            .wait_idle(&name)
            .await
            .map_err(Error::in_base(base))?;
        let Some(pixel) = find_pixel(backend, base, &name).await? else {
            return Ok(());
        };
        if pixel.properties.get(BUILD_PIXEL_KEY).map(String::as_str) != Some(name.as_str()) {
            return Err(name_taken(base, &name));
        }
        let creator = Creator::recorded_on(&pixel).map(|creator| creator.state());
        if creator == Some(CreatorState::OtherMachine) && pixel.status == Status::Running {
            return Err(Error::OtherMachine {
                base: base.to_owned(),
            });
        }
        self.delete(backend, base, &name).await
    }

    /// Deletes a pixel. Succeeds if the pixel does not exist.
    async fn delete(&self, backend: &dyn Backend, base: &str, pixel: &Name) -> Result<()> {
        let outcome = lifecycle::destroy(backend, &self.defaults.gateway, pixel).await;
        optional(outcome).map(drop).map_err(Error::in_base(base))
    }
}

impl Build<'_> {
    pub fn phase(&self, phase: &str) {
        (self.observer.phase)(&format!("base {}: {phase}", self.base));
    }

    /// Builds the base if it is missing, or always with `force`.
    async fn ensure(&self, force: bool) -> Result<CloneSource> {
        let (builder, base) = (self.builder, self.base);
        if !force && let Some(source) = builder.ready_checkpoint(self.backend, base).await? {
            return Ok(source);
        }
        let path = builder.lock_path(&builder.pixel(base)?);
        let on_wait = || self.phase("waiting for another build of it");
        let lock = async { Ok(FileLock::acquire(&path, LockMode::Exclusive, on_wait).await) };
        let lock = unless_cancelled(self.cancel, lock).await;
        let lock = lock.map_err(Error::in_base(base))?;
        let _lock = lock.map_err(|source| Error::Lock { path, source })?;
        // Another process may have built the base during the wait.
        if !force && let Some(source) = builder.ready_checkpoint(self.backend, base).await? {
            return Ok(source);
        }
        self.run().await
    }

    async fn run(&self) -> Result<CloneSource> {
        let (builder, backend, base) = (self.builder, self.backend, self.base);
        let config = builder.config(base)?;
        let script = recipe::setup_script(base, config)?;
        let pixel = builder.pixel(base)?;
        builder.remove_interrupted_build(backend, base).await?;
        if let Some(existing) = find_pixel(backend, base, &pixel).await?
            && !is_base(&existing)
            && builder.newest_checkpoint(backend, base).await?.is_none()
        {
            return Err(name_taken(base, &pixel));
        }
        let build_pixel = builder.build_pixel(base)?;
        let parent = match &config.parent {
            Parent::Base(parent) => builder.build_id(backend, parent).await?,
            Parent::Image(_) => None,
        };
        let recipe = recipe::fingerprint(config, script.as_deref());
        let properties = Properties::from([
            (BASE_KEY.to_owned(), pixel.to_string()),
            (RECIPE_KEY.to_owned(), recipe),
            (PARENT_KEY.to_owned(), parent.unwrap_or_default()),
            (BUILD_PIXEL_KEY.to_owned(), String::new()),
        ]);
        let lease = self.create_build_pixel(config, &build_pixel).await?;
        let outcome = async {
            self.set_up(&build_pixel, lease, script.as_deref()).await?;
            self.replace(&build_pixel, &pixel, properties).await
        }
        .await;
        if outcome.is_err() {
            self.phase("cleaning up");
        }
        // If this fails after a success, the next build deletes the pixel.
        if let Err(error) = builder.delete(backend, base, &build_pixel).await
            && outcome.is_ok()
        {
            tracing::warn!(base, %error, "cannot delete the pixel of the build");
        }
        outcome
    }

    /// Replaces the base's pixel by a clone of the finished build.
    async fn replace(
        &self,
        build_pixel: &Name,
        pixel: &Name,
        properties: Properties,
    ) -> Result<CloneSource> {
        let (builder, backend, base) = (self.builder, self.backend, self.base);
        self.phase("replacing the old base");
        builder.delete(backend, base, pixel).await?;
        let label: Label = LABEL.parse().map_err(Error::Name)?;
        let from = CloneSource {
            pixel: build_pixel.clone(),
            label: None,
        };
        lifecycle::create_template(backend, self.cancel, from, pixel, &label, properties)
            .await
            .map_err(Error::in_base(base))?;
        Ok(CloneSource {
            pixel: pixel.clone(),
            label: Some(label),
        })
    }
}

fn name_taken(base: &str, pixel: &Name) -> Error {
    Error::NameTaken {
        base: base.to_owned(),
        pixel: pixel.to_string(),
    }
}
