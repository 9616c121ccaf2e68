//! A new pixel from an image.

use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::network::Network;
use super::rollback::Rollback;
use super::{Error, Progress, identity, provisioning, unless_cancelled};
use crate::model::{Backend, CreateSpec, Limits, Name, Properties};
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
    wish: Create,
    progress: Progress<'_>,
) -> Result<(), Error> {
    wish.network.ensure(backend, cancel, progress).await?;
    let claim = Creator::new();
    let mut spec = CreateSpec {
        first_boot: identity::first_boot(&claim, &wish.name),
        name: wish.name,
        image: wish.image,
        network: wish.network.attachment(),
        limits: wish.limits,
        properties: wish.properties,
    };
    claim.mark(&mut spec.properties);
    wish.network.record_address(&mut spec.properties);
    if wish.provision.is_some() {
        provisioning::announce(&claim, &mut spec.properties);
    }
    let mut undo = Rollback::new(backend, &claim);
    undo.track_pixel(&spec.name);
    let work = async {
        progress("creating");
        let taken = backend.create(&spec).await?;
        identity::ensure_identity(backend, &spec.name, taken).await?;
        wish.network.prepare(backend, &spec.name, false).await?;
        progress("starting");
        wish.network.start(backend, &spec.name).await?;
        if let Some(plan) = &wish.provision {
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
            wish.network.reconcile(backend).await;
            Err(Error { source, leftovers })
        }
    }
}
