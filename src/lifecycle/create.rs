//! A new pixel from an image.

use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::network::Network;
use super::rollback::Rollback;
use super::{Error, Progress, identity, provisioning};
use crate::model::{Backend, CreateSpec, Limits, Name, Properties, unless_cancelled};
use crate::provision::Plan;

/// What the user wants made.
#[derive(Debug, Clone)]
pub struct Create {
    pub name: Name,
    pub image: String,
    pub limits: Limits,
    pub properties: Properties,
    /// `None` leaves the pixel as the image made it.
    pub provision: Option<Plan>,
    pub network: Network,
}

/// Makes and starts a pixel and begins its provisioning, whose steps go on in
/// the background. When this fails or is cancelled, nothing of it
/// is left on the server, or the error names what is.
pub async fn create(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    options: Create,
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
    creator.mark(&mut spec.properties);
    options.network.insert_address(&mut spec.properties);
    if options.provision.is_some() {
        provisioning::announce(&creator, &mut spec.properties);
    }
    let mut undo = Rollback::new(backend, &creator);
    undo.track_pixel(&spec.name);
    let work = async {
        progress("creating");
        let taken = backend.create(&spec).await?;
        identity::ensure_identity(backend, &spec.name, taken).await?;
        options.network.prepare(backend, &spec.name, false).await?;
        progress("starting");
        options.network.start(backend, &spec.name).await?;
        if let Some(plan) = &options.provision {
            progress("provisioning");
            provisioning::apply(backend, &spec.name, plan).await?;
        }
        Ok(())
    };
    match unless_cancelled(cancel, work).await {
        Ok(()) => Ok(()),
        Err(source) => {
            progress("cleaning up");
            let leftovers = undo.unwind().await;
            options.network.reconcile(backend).await;
            Err(Error { source, leftovers })
        }
    }
}
