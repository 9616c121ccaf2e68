//! Creates clones of a pixel or checkpoint in parallel.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::checkpoint::delete_temporary;
use super::creator::Creator;
use super::network::Network;
use super::rollback::Rollback;
use super::{Error, Progress, expiry, identity};
use crate::model::{
    self, Backend, CloneSource, ForkSpec, Label, Limits, Name, Properties, Subject, lock,
    unless_cancelled,
};

/// Number of clones created at the same time. The server would queue more.
const MAX_PARALLEL: usize = 8;
/// Time after which the server deletes a temporary checkpoint, in case the
/// command was killed.
const CHECKPOINT_TTL: Duration = Duration::from_secs(15 * 60);

/// The names of the clones.
pub enum CloneNames {
    /// One clone with this name.
    One(Name),
    /// `prefix-1`, `prefix-2` and so on. Skips numbers in use, including
    /// numbers that concurrent commands use.
    Numbered { prefix: String, count: usize },
}

/// The clones to create.
pub struct ForkOptions {
    pub from: CloneSource,
    pub names: CloneNames,
    pub limits: Limits,
    /// Properties of each clone, which override inherited properties.
    pub properties: Properties,
    pub network: Network,
}

/// Creates and starts clones. Calls `on_ready` with the name of each clone as
/// soon as the clone is usable.
///
/// Several clones of a pixel's current state are created from one temporary
/// checkpoint, so that they are equal. The checkpoint is always deleted.
///
/// If a clone fails or the command is canceled, all clones are deleted, or the
/// error lists the leftovers.
pub async fn fork(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    options: ForkOptions,
    progress: Progress<'_>,
    on_ready: &(dyn Fn(&Name) + Sync),
) -> Result<(), Error> {
    options.network.ensure(backend, cancel, progress).await?;
    let creator = Creator::new();
    let undo = Mutex::new(Rollback::new(backend, &creator));
    let (count, is_numbered) = match &options.names {
        CloneNames::One(_) => (1, false),
        CloneNames::Numbered { count, .. } => (*count, true),
    };
    let work = async {
        let pixels = match is_numbered {
            true => backend.list().await?,
            false => Vec::new(),
        };
        let names = NameAllocator {
            names: &options.names,
            in_use: pixels.into_iter().map(|pixel| pixel.name).collect(),
            last_number: Mutex::new(0),
        };
        let mut from = options.from.clone();
        let mut temporary = None;
        if from.label.is_none() && count > 1 {
            let label = Label::temporary(&creator.id())?;
            lock(&undo).track_checkpoint(&from.pixel, &label);
            progress("taking a checkpoint");
            backend
                .checkpoint(&from.pixel, &label, Some(CHECKPOINT_TTL))
                .await?;
            from.label = Some(label.clone());
            temporary = Some(label);
        }
        let mut properties = options.properties.clone();
        creator.insert_into(&mut properties);
        // Clones do not inherit the expiry of their source.
        properties.entry(expiry::KEY.into()).or_default();
        let create_clone = || async {
            loop {
                let name = names.next()?;
                let mut properties = properties.clone();
                options.network.insert_address(&mut properties);
                let spec = ForkSpec {
                    first_boot: identity::first_boot(&creator, &name),
                    name,
                    from: from.clone(),
                    network: Some(options.network.attachment()),
                    limits: options.limits.clone(),
                    properties,
                };
                lock(&undo).track_pixel(&spec.name);
                match create_and_start(backend, &options.network, &spec).await {
                    Err(model::Error::AlreadyExists(Subject::Pixel(_))) if is_numbered => {}
                    outcome => return outcome.map(|()| spec.name),
                }
            }
        };
        progress("cloning");
        let mut waiting = (0..count).map(|_| create_clone());
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(MAX_PARALLEL).collect();
        while let Some(outcome) = running.next().await {
            on_ready(&outcome?);
            running.extend(waiting.next());
        }
        match &temporary {
            Some(label) => delete_temporary(backend, &options.from.pixel, label).await,
            None => Ok(()),
        }
    };
    let Err(source) = unless_cancelled(cancel, work).await else {
        return Ok(());
    };
    progress("cleaning up");
    let undo = undo.into_inner().unwrap_or_else(PoisonError::into_inner);
    let leftovers = undo.unwind().await;
    options.network.reconcile(backend).await;
    Err(Error { source, leftovers })
}

async fn create_and_start(
    backend: &dyn Backend,
    network: &Network,
    spec: &ForkSpec,
) -> model::Result<()> {
    let init_script = backend.fork(spec).await?;
    identity::ensure_identity(backend, &spec.name, init_script).await?;
    network.prepare(backend, &spec.name, true).await?;
    network.start(backend, &spec.name).await
}

/// Allocates names, each only once.
struct NameAllocator<'a> {
    names: &'a CloneNames,
    in_use: BTreeSet<Name>,
    last_number: Mutex<usize>,
}

impl NameAllocator<'_> {
    fn next(&self) -> model::Result<Name> {
        let prefix = match self.names {
            CloneNames::One(name) => return Ok(name.clone()),
            CloneNames::Numbered { prefix, .. } => prefix,
        };
        let mut number = lock(&self.last_number);
        loop {
            *number += 1;
            let name: Name = format!("{prefix}-{number}").parse()?;
            if !self.in_use.contains(&name) {
                return Ok(name);
            }
        }
    }
}
