//! Clones of a pixel or of one of its checkpoints, side by side.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::network::Network;
use super::rollback::{Rollback, remove_checkpoint};
use super::{Error, Progress, expiry, identity};
use crate::model::{
    self, Backend, CloneSource, ForkSpec, InvalidName, Label, Limits, Name, Properties, Subject,
    unless_cancelled,
};

/// Clones made at the same time; more only queue on the server.
const AT_ONCE: usize = 8;
/// The server itself removes a temporary checkpoint whose command was killed.
const TEMPORARY: Duration = Duration::from_secs(15 * 60);

/// How the clones are called.
pub enum Names {
    /// One clone of this very name.
    One(Name),
    /// `prefix-1`, `prefix-2`, …: taken numbers are skipped, also those that
    /// somebody else takes meanwhile.
    Numbered { prefix: String, count: usize },
}

/// What to clone, into which pixels.
pub struct Fork {
    pub from: CloneSource,
    pub names: Names,
    pub limits: Limits,
    pub properties: Properties,
    pub network: Network,
}

/// Makes and starts all clones; `ready` is told each name as it becomes
/// usable. When one fails or the user interrupts, all of them are removed
/// again, or the error names what is left.
///
/// Several clones of a live pixel all show the same moment: they are taken
/// from one temporary checkpoint, which is removed in every case.
pub async fn fork(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    options: Fork,
    progress: Progress<'_>,
    ready: &(dyn Fn(&Name) + Sync),
) -> Result<(), Error> {
    options.network.ensure(backend, cancel, progress).await?;
    let creator = Creator::new();
    let undo = Mutex::new(Rollback::new(backend, &creator));
    let count = match &options.names {
        Names::One(_) => 1,
        Names::Numbered { count, .. } => *count,
    };
    let work = async {
        let names = Allocator::new(backend, &options.names).await?;
        let mut from = options.from.clone();
        let mut temporary = None;
        if from.label.is_none() && count > 1 {
            let label = Label::temporary(&creator.unique()).map_err(invalid)?;
            lock(&undo).track_checkpoint(&from.pixel, &label);
            progress("taking a checkpoint");
            backend
                .checkpoint(&from.pixel, &label, Some(TEMPORARY))
                .await?;
            from.label = Some(label.clone());
            temporary = Some(label);
        }
        let mut properties = options.properties.clone();
        creator.mark(&mut properties);
        let one = || async {
            loop {
                let name = names.next()?;
                let mut properties = properties.clone();
                options.network.insert_address(&mut properties);
                // A clone lives as long as it was given itself.
                properties.entry(expiry::KEY.into()).or_default();
                let spec = ForkSpec {
                    first_boot: identity::first_boot(&creator, &name),
                    name,
                    from: from.clone(),
                    network: Some(options.network.attachment()),
                    limits: options.limits.clone(),
                    properties,
                };
                lock(&undo).track_pixel(&spec.name);
                match clone(backend, &options.network, &spec).await {
                    Err(model::Error::AlreadyExists(Subject::Pixel(_))) if names.numbered() => {}
                    outcome => return outcome.map(|()| spec.name),
                }
            }
        };
        progress("cloning");
        let mut waiting = (0..count).map(|_| one());
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(AT_ONCE).collect();
        while let Some(outcome) = running.next().await {
            ready(&outcome?);
            running.extend(waiting.next());
        }
        match &temporary {
            Some(label) => remove_checkpoint(backend, &options.from.pixel, label).await,
            None => Ok(()),
        }
    };
    match unless_cancelled(cancel, work).await {
        Ok(()) => Ok(()),
        Err(source) => {
            progress("cleaning up");
            let undo = undo.into_inner().unwrap_or_else(PoisonError::into_inner);
            let leftovers = undo.unwind().await;
            options.network.reconcile(backend).await;
            Err(Error { source, leftovers })
        }
    }
}

async fn clone(backend: &dyn Backend, network: &Network, spec: &ForkSpec) -> model::Result<()> {
    let taken = backend.fork(spec).await?;
    identity::ensure_identity(backend, &spec.name, taken).await?;
    network.prepare(backend, &spec.name, true).await?;
    network.start(backend, &spec.name).await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(error: InvalidName) -> model::Error {
    model::Error::Invalid(error.to_string().into())
}

/// Hands out names, each once.
struct Allocator<'a> {
    names: &'a Names,
    taken: BTreeSet<Name>,
    number: Mutex<usize>,
}

impl<'a> Allocator<'a> {
    async fn new(backend: &dyn Backend, names: &'a Names) -> model::Result<Self> {
        let taken = match names {
            Names::One(_) => BTreeSet::new(),
            Names::Numbered { .. } => backend.list().await?.into_iter().map(|i| i.name).collect(),
        };
        Ok(Self::with(names, taken))
    }

    fn with(names: &'a Names, taken: BTreeSet<Name>) -> Self {
        Self {
            names,
            taken,
            number: Mutex::new(0),
        }
    }

    fn numbered(&self) -> bool {
        matches!(self.names, Names::Numbered { .. })
    }

    fn next(&self) -> model::Result<Name> {
        let prefix = match self.names {
            Names::One(name) => return Ok(name.clone()),
            Names::Numbered { prefix, .. } => prefix,
        };
        let mut number = lock(&self.number);
        loop {
            *number += 1;
            let name: Name = format!("{prefix}-{number}").parse().map_err(invalid)?;
            if !self.taken.contains(&name) {
                return Ok(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_numbers_are_skipped() {
        let names = Names::Numbered {
            prefix: "a".into(),
            count: 3,
        };
        let taken = BTreeSet::from(["a-2".parse().unwrap(), "b-1".parse().unwrap()]);
        let allocator = Allocator::with(&names, taken);
        let given: Vec<String> = (0..3)
            .map(|_| allocator.next().unwrap().to_string())
            .collect();
        assert_eq!(given, ["a-1", "a-3", "a-4"]);
    }

    #[test]
    fn a_prefix_that_makes_no_name_is_refused() {
        let names = Names::Numbered {
            prefix: "a".repeat(60),
            count: 1,
        };
        assert!(Allocator::with(&names, BTreeSet::new()).next().is_err());
    }
}
