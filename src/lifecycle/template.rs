//! A clone that is only kept to be cloned: never started, with one checkpoint.

use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::rollback::Rollback;
use super::{Error, identity};
use crate::egress::gateway::ADDRESS;
use crate::model::{
    Backend, CloneSource, ForkSpec, Label, Limits, Name, Properties, unless_cancelled,
};

/// Makes `to` from `from` and takes the checkpoint `label` of it. When this
/// fails or is cancelled, nothing of it is left, or the error names what is.
pub async fn create_template(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    from: CloneSource,
    to: &Name,
    label: &Label,
    mut properties: Properties,
) -> Result<(), Error> {
    let creator = Creator::new();
    creator.mark(&mut properties);
    // It joins no network before somebody starts it.
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
        let taken = backend.fork(&spec).await?;
        identity::ensure_identity(backend, to, taken).await?;
        backend.checkpoint(to, label, None).await?;
        // A pixel that its maker never started would look half-made.
        backend.set_properties(to, &Creator::cleared()).await
    };
    match unless_cancelled(cancel, work).await {
        Ok(()) => Ok(()),
        Err(source) => {
            let leftovers = undo.unwind().await;
            Err(Error { source, leftovers })
        }
    }
}
