//! A clone that is only kept to be cloned: never started, with one checkpoint.

use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::rollback::Rollback;
use super::{Error, identity, unless_cancelled};
use crate::egress::gateway::ADDRESS;
use crate::sandbox::{ForkSpec, Label, Limits, Name, Origin, Properties, Sandbox};

/// Makes `to` from `from` and takes the checkpoint `label` of it. When this
/// fails or is cancelled, nothing of it is left, or the error names what is.
pub async fn shelve(
    sandbox: &dyn Sandbox,
    cancel: &CancellationToken,
    from: Origin,
    to: &Name,
    label: &Label,
    mut properties: Properties,
) -> Result<(), Error> {
    let claim = Claim::new();
    claim.mark(&mut properties);
    // It joins no network before somebody starts it.
    properties.insert(ADDRESS.into(), String::new());
    let spec = ForkSpec {
        first_boot: identity::first_boot(&claim, to),
        name: to.clone(),
        from,
        network: None,
        limits: Limits::default(),
        properties,
    };
    let mut undo = Rollback::new(sandbox, &claim);
    undo.pixel(to);
    let work = async {
        let taken = sandbox.fork(&spec).await?;
        identity::settle(sandbox, to, taken).await?;
        sandbox.checkpoint(to, label, None).await?;
        // A pixel that its maker never started would look half-made.
        sandbox.set_properties(to, &Claim::lifted()).await
    };
    match unless_cancelled(cancel, work).await {
        Ok(()) => Ok(()),
        Err(source) => {
            let leftovers = undo.unwind().await;
            Err(Error { source, leftovers })
        }
    }
}
