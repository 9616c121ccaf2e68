//! Templates: clones that are never started and have one checkpoint for clones.

use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::rollback::Rollback;
use super::{Error, identity};
use crate::egress::gateway::ADDRESS;
use crate::model::{
    Backend, CloneSource, ForkSpec, Label, Limits, Name, Properties, unless_cancelled,
};

/// Clones `from` as `to` and creates the checkpoint `label` of the clone.
///
/// On failure or cancellation, the clone is deleted, or the error lists it as a
/// leftover.
pub async fn create_template(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    from: CloneSource,
    to: &Name,
    label: &Label,
    mut properties: Properties,
) -> Result<(), Error> {
    let creator = Creator::new();
    creator.insert_into(&mut properties);
    // A stopped pixel needs no address. Its first start assigns an address.
    properties.insert(ADDRESS.into(), String::new());
    let spec = ForkSpec {
        first_boot: identity::first_boot(&creator, to),
        name: to.clone(),
        from,
        network: None,
        limits: Limits::default(),
        properties,
    };
    let mut undo = Rollback::new(backend, &creator);
    undo.track_pixel(to);
    let work = async {
        let init_script = backend.fork(&spec).await?;
        identity::ensure_identity(backend, to, init_script).await?;
        backend.checkpoint(to, label, None).await?;
        // A pixel that was never started and has a recorded creator counts as
        // incomplete.
        let cleared = Creator::cleared_properties();
        backend.set_properties(to, &cleared).await
    };
    match unless_cancelled(cancel, work).await {
        Ok(()) => Ok(()),
        Err(source) => {
            let leftovers = undo.unwind().await;
            Err(Error { source, leftovers })
        }
    }
}
