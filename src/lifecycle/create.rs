//! Creation of a pixel from an image.

use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::network::Network;
use super::rollback::Rollback;
use super::{Error, Progress, identity, provisioning};
use crate::model::{Backend, CreateSpec, Limits, Name, Properties, unless_cancelled};
use crate::provision::Plan;

/// The pixel to create.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    pub name: Name,
    pub image: String,
    pub limits: Limits,
    pub properties: Properties,
    /// `None`: the pixel is not provisioned.
    pub provision: Option<Plan>,
    pub network: Network,
}

/// Creates and starts a pixel under its policy, and starts its provisioning,
/// whose steps continue in the background.
///
/// On failure or cancellation the pixel is deleted again, or the error lists it
/// as a leftover.
pub async fn create(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    options: CreateOptions,
    progress: Progress<'_>,
) -> Result<(), Error> {
    options.network.ensure(backend, cancel, progress).await?;
    let creator = Creator::new();
    let mut spec = CreateSpec {
        first_boot: identity::first_boot(&creator, &options.name),
        name: options.name,
        image: options.image,
        network: options.network.attachment(),
        limits: options.limits,
        properties: options.properties,
    };
    creator.insert_into(&mut spec.properties);
    options.network.insert_address(&mut spec.properties);
    if options.provision.is_some() {
        provisioning::insert_applying(&creator, &mut spec.properties);
    }
    let mut undo = Rollback::new(backend, &creator);
    undo.track_pixel(&spec.name);
    let work = async {
        progress("creating");
        let init_script = backend.create(&spec).await?;
        identity::ensure_identity(backend, &spec.name, init_script).await?;
        options.network.prepare(backend, &spec.name, false).await?;
        progress("starting");
        options.network.start(backend, &spec.name).await?;
        if let Some(plan) = &options.provision {
            progress("provisioning");
            provisioning::apply(backend, &spec.name, plan).await?;
        }
        Ok(())
    };
    let Err(source) = unless_cancelled(cancel, work).await else {
        return Ok(());
    };
    progress("cleaning up");
    let leftovers = undo.unwind().await;
    options.network.reconcile(backend).await;
    Err(Error { source, leftovers })
}
