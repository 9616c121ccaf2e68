//! A base from its parent: a pixel is made, provisioned and set up, and what
//! came of it is put under the base's name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::log_tail::{LogTail, Sink};
use super::status::{KEY, PARENT, RECIPE, get, is_base, newest};
use super::{BaseBuilder, Error, Result, build_order, recipe};
use crate::config::Parent;
use crate::egress;
use crate::file_lock::{FileLock, LockMode};
use crate::lifecycle::{
    self, Creator, CreatorState, ExecOptions, SignalSource, User, provisioning,
};
use crate::model::{
    self, Backend, CloneSource, Control, ExecRequest, GuestFile, Ids, Instance, Label, Name,
    Properties, Status,
};
use crate::provision::{self, Overall};
use crate::retry;

const LABEL: &str = "initial";
/// On a pixel in which a base is built: that pixel's name.
pub(super) const WORK: &str = "base-build";
const LIB: &str = "/usr/local/lib/pixels";
const SCRIPT: &str = "/usr/local/lib/pixels/base-setup";
const TMP: &str = "/etc/tmpfiles.d/tmp.conf";
const GRACE: Duration = Duration::from_secs(30);
/// For the pixel to have an address; a script that needs none is not held up
/// for ever.
const ADDRESS: Duration = Duration::from_secs(20);
const EXPLAINING: u32 = 20;

/// Who is told what.
#[derive(Clone)]
pub struct BuildObserver {
    /// Steps as they begin.
    pub phase: Sink,
    /// What the setup script prints, line by line.
    pub output: Sink,
}

impl BuildObserver {
    pub fn silent() -> Self {
        Self {
            phase: Arc::new(|_| {}),
            output: Arc::new(|_| {}),
        }
    }

    pub(super) fn step(&self, base: &str, phase: &str) {
        (self.phase)(&format!("base {base}: {phase}"));
    }
}

impl BaseBuilder {
    /// Builds what is missing of a base and its parents, and returns what to
    /// clone. `anew`: the base itself also when it is there; the one before
    /// stays until the new one is finished.
    ///
    /// When this fails or is cancelled, nothing of the build is left, or the
    /// error names what is.
    pub async fn build(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
        anew: bool,
        watch: &BuildObserver,
    ) -> Result<CloneSource> {
        self.base(base)?;
        let mut origin = None;
        for one in build_order::build_order(&self.bases, base) {
            let always = anew && one == base;
            if !always && let Some(there) = self.ready_checkpoint(backend, one).await? {
                origin = Some(there);
                continue;
            }
            let pixel = self.pixel(one)?;
            let waiting = || watch.step(one, "waiting for another build of it");
            let path = self.lock_path(&pixel);
            let lock = FileLock::wait(&path, LockMode::Exclusive, waiting);
            let _lock = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::about(one)(model::Error::Cancelled)),
                lock = lock => lock.map_err(|source| Error::Lock { path: path.clone(), source })?,
            };
            // Whoever held the lock may have built it.
            let there = self.ready_checkpoint(backend, one).await?;
            origin = match there {
                Some(there) if !always => Some(there),
                _ => Some(self.build_one(backend, cancel, one, watch).await?),
            };
        }
        origin.ok_or_else(|| Error::Unknown {
            base: base.to_owned(),
            known: Vec::new(),
        })
    }

    fn lock_path(&self, pixel: &Name) -> PathBuf {
        self.locks.join(format!("{pixel}.lock"))
    }

    /// The lock of a build; `None` while another holds it.
    pub(super) fn try_lock(&self, pixel: &Name) -> Result<Option<FileLock>> {
        let path = self.lock_path(pixel);
        FileLock::attempt(&path, LockMode::Exclusive).map_err(|source| Error::Lock { path, source })
    }

    /// Removes what builds left that were killed. Best effort.
    pub async fn sweep(&self, backend: &dyn Backend) {
        for base in self.bases.keys() {
            let Ok(pixel) = self.pixel(base) else {
                continue;
            };
            let Ok(Some(_lock)) = self.try_lock(&pixel) else {
                continue;
            };
            if let Err(error) = self.clear(backend, base).await {
                tracing::warn!(base, %error, "what a killed build left");
            }
        }
    }

    /// Makes room for a build; the caller holds the lock.
    async fn clear(&self, backend: &dyn Backend, base: &str) -> Result<()> {
        let work = self.work(base)?;
        backend.wait_idle(&work).await.map_err(Error::about(base))?;
        if let Some(left) = get(backend, base, &work).await? {
            if left.properties.get(WORK).map(String::as_str) != Some(work.as_str()) {
                return Err(name_taken(base, &work));
            }
            if Creator::recorded_on(&left)
                .is_some_and(|creator| creator.state() == CreatorState::Elsewhere)
                && left.status == Status::Running
            {
                return Err(Error::Elsewhere {
                    base: base.to_owned(),
                });
            }
            self.remove(backend, base, &work).await?;
        }
        Ok(())
    }

    async fn remove(&self, backend: &dyn Backend, base: &str, pixel: &Name) -> Result<()> {
        match lifecycle::destroy(backend, &self.defaults.gateway, pixel).await {
            Err(error) if !error.is_not_found() => Err(Error::about(base)(error)),
            _ => Ok(()),
        }
    }

    async fn build_one(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
        watch: &BuildObserver,
    ) -> Result<CloneSource> {
        let config = self.base(base)?;
        let script = recipe::setup_script(base, config)?;
        let pixel = self.pixel(base)?;
        self.clear(backend, base).await?;
        if let Some(there) = get(backend, base, &pixel).await?
            && !is_base(&there)
            && newest(backend, base, &pixel).await?.is_none()
        {
            return Err(name_taken(base, &pixel));
        }
        let work = self.work(base)?;
        let parent = match &config.parent {
            Parent::Base(parent) => self.lineage(backend, parent).await?,
            Parent::Image(_) => None,
        };
        let records = Properties::from([
            (KEY.to_owned(), pixel.to_string()),
            (
                RECIPE.to_owned(),
                recipe::fingerprint(config, script.as_deref()),
            ),
            (PARENT.to_owned(), parent.unwrap_or_default()),
            (WORK.to_owned(), String::new()),
        ]);
        self.create_build_pixel(backend, cancel, base, config, &work, watch)
            .await?;
        let finish = async {
            self.set_up(backend, cancel, base, &work, script.as_deref(), watch)
                .await?;
            watch.step(base, "putting it in place");
            if get(backend, base, &pixel).await?.is_some() {
                self.remove(backend, base, &pixel).await?;
            }
            let label = label()?;
            let from = CloneSource {
                pixel: work.clone(),
                label: None,
            };
            lifecycle::create_template(backend, cancel, from, &pixel, &label, records)
                .await
                .map_err(|source| Error::Lifecycle {
                    base: base.into(),
                    source,
                })?;
            Ok(CloneSource {
                pixel: pixel.clone(),
                label: Some(label),
            })
        };
        let outcome = finish.await;
        if outcome.is_err() {
            watch.step(base, "cleaning up");
        }
        let removed = self.remove(backend, base, &work).await;
        match (outcome, removed) {
            (Ok(origin), Ok(())) => Ok(origin),
            // It is finished; the next build clears up.
            (Ok(origin), Err(error)) => {
                tracing::warn!(base, %error, "removing the pixel it was built in");
                Ok(origin)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Waits for provisioning, runs the script, and stops the pixel.
    async fn set_up(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
        work: &Name,
        script: Option<&[u8]>,
        watch: &BuildObserver,
    ) -> Result<()> {
        let about = Error::about(base);
        let steps = async {
            let instance = backend.get(work).await.map_err(&about)?;
            self.provisioned(backend, base, &instance, watch).await?;
            let guest = backend.guest(work);
            guest.make_dir("/etc/tmpfiles.d").await.map_err(&about)?;
            let file = root_file(TMP, include_bytes!("guest/tmp.conf"), 0o644);
            guest.write_file(&file).await.map_err(&about)?;
            if let Some(script) = script {
                watch.step(base, "running the setup script");
                self.run(backend, cancel, base, work, script, watch).await?;
            }
            // Clones are to begin with an empty one.
            let clean = ExecRequest::root(["find", "/tmp", "-xdev", "-mindepth", "1", "-delete"]);
            guest.output(&clean).await.map_err(&about)?;
            // Its open file session would hold up the stop.
            drop(guest);
            watch.step(base, "stopping");
            backend.stop(work, GRACE).await.map_err(&about)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(about(model::Error::Cancelled)),
            outcome = steps => outcome,
        }
    }

    async fn provisioned(
        &self,
        backend: &dyn Backend,
        base: &str,
        instance: &Instance,
        watch: &BuildObserver,
    ) -> Result<()> {
        let about = Error::about(base);
        let work = &instance.name;
        if provisioning::is_unfinished(instance) {
            watch.step(base, "provisioning");
            let report = provisioning::wait(backend, work, &|_| {})
                .await
                .map_err(&about)?;
            if report.overall == Overall::Failed
                && let Some(step) = report.failed()
            {
                let guest = backend.guest(work);
                let tail = provision::log_tail(&*guest, step, EXPLAINING).await;
                return Err(Error::Provisioning {
                    base: base.to_owned(),
                    step: step.name.clone(),
                    tail: tail.map_err(&about)?.trim_end().to_owned(),
                });
            }
        }
        if instance.properties.contains_key(egress::INTERIM) {
            lifecycle::end_interim_policy(backend, &self.defaults.gateway, work)
                .await
                .map_err(&about)?;
        }
        let booted = include_str!("guest/booted.sh");
        let wait = ExecRequest::root(["/bin/sh", "-c", booted, "booted"]);
        backend.guest(work).output(&wait).await.map_err(&about)?;
        let _ = retry::until(ADDRESS, || async {
            match backend.address(work).await {
                Ok(Some(_)) => retry::Next::Done(()),
                _ => retry::Next::Again(()),
            }
        })
        .await;
        Ok(())
    }

    async fn run(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
        work: &Name,
        script: &[u8],
        watch: &BuildObserver,
    ) -> Result<()> {
        let about = Error::about(base);
        let guest = backend.guest(work);
        guest.make_dir(LIB).await.map_err(&about)?;
        // A pixel that is not provisioned lacks it.
        for (path, content) in [
            (provision::APT_PATH, provision::APT.as_bytes()),
            (SCRIPT, script),
        ] {
            let file = root_file(path, content, 0o755);
            guest.write_file(&file).await.map_err(&about)?;
        }
        let argv = match script.starts_with(b"#!") {
            true => vec![SCRIPT.to_owned()],
            false => vec!["/bin/bash".to_owned(), SCRIPT.to_owned()],
        };
        let options = ExecOptions {
            argv,
            login: User::lookup(&*guest, "root").await.map_err(&about)?,
            env: [("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())].into(),
            cwd: None,
            tty: None,
            timeout: None,
        };
        let lines = LogTail::new(watch.output.clone());
        let (signals, events) = mpsc::channel::<Control>(1);
        let ended = lifecycle::exec(
            &*guest,
            &options,
            None,
            (
                Box::new(tokio::io::empty()),
                Box::new(lines.clone()),
                Box::new(lines.clone()),
            ),
            SignalSource { events },
        );
        let status = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(about(model::Error::Cancelled)),
            ended = ended => ended.map_err(&about)?.status,
        };
        drop(signals);
        if !status.success() {
            return Err(Error::Script {
                base: base.to_owned(),
                status: status.0,
                tail: lines.tail(),
            });
        }
        guest.remove_file(SCRIPT).await.map_err(&about)
    }
}

fn root_file(path: &str, content: &[u8], mode: u32) -> GuestFile {
    GuestFile {
        path: path.to_owned(),
        content: content.to_vec(),
        mode,
        owner: Ids::ROOT,
    }
}

fn label() -> Result<Label> {
    LABEL.parse().map_err(Error::Name)
}

fn name_taken(base: &str, pixel: &Name) -> Error {
    Error::InTheWay {
        base: base.to_owned(),
        pixel: pixel.to_string(),
    }
}
