//! Proves on the user's server that a restricted pixel cannot bypass its policy:
//! creates two temporary pixels, one restricted and one unrestricted, attacks as
//! root or user of the restricted one, and deletes both.
//!
//! No attempt needs the internet or a machine of another owner. Packets to
//! addresses for documentation (RFC 5737) are observed where they leave the
//! gateway or the pixel. An attempt that fails for the unrestricted pixel too
//! proves nothing and is inconclusive.

mod attempt;
mod behind_gateway;
mod facts;
mod inside_pixel;
mod lab;
mod layer2;
mod pixels;
mod policy_change;
mod probe;
mod row;

use tokio_util::sync::CancellationToken;

pub use self::attempt::{Attempt, Verdict};
use self::pixels::TestPixels;
use super::creator::Creator;
use super::rollback::Rollback;
use super::{Error, InstanceDefaults, Network, Progress};
use crate::model::{Backend, unless_cancelled};

/// The results of all attempts.
#[derive(Debug)]
pub struct Proof {
    pub attempts: Vec<Attempt>,
    /// Leftovers that cleanup could not delete, each with a command.
    pub leftovers: Vec<String>,
}

/// Makes all attempts that apply to the network of the settings. Creates the
/// gateway if it is missing.
///
/// The two pixels are deleted at the end, on failure and on cancellation, or the
/// result lists them as leftovers.
pub async fn test_walls(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    defaults: &InstanceDefaults,
    image: &str,
    progress: Progress<'_>,
) -> Result<Proof, Error> {
    let network = &defaults.network;
    network.ensure(backend, cancel, progress).await?;
    let creator = Creator::new();
    let pixels = TestPixels::new(backend, cancel, defaults, progress)?;
    let mut undo = Rollback::new(backend, &creator);
    undo.track_pixel(&pixels.restricted);
    undo.track_pixel(&pixels.open);
    let work = async {
        pixels.create(&creator, image).await?;
        if !pixels.has_perl().await? {
            return Ok(not_run(network, image));
        }
        match network {
            Network::Gateway(gateway) => behind_gateway::run(&pixels, gateway).await,
            Network::External(_) => inside_pixel::run(&pixels).await,
        }
    };
    let outcome = unless_cancelled(cancel, work).await;
    progress("cleaning up");
    let leftovers = undo.unwind().await;
    network.reconcile(backend).await;
    match outcome {
        Ok(attempts) => Ok(Proof {
            attempts,
            leftovers,
        }),
        Err(source) => Err(Error { source, leftovers }),
    }
}

fn not_run(network: &Network, image: &str) -> Vec<Attempt> {
    let names: Vec<&str> = match network {
        Network::Gateway(_) => behind_gateway::names().collect(),
        Network::External(_) => inside_pixel::names().collect(),
    };
    let reason = format!("image {image} has no perl");
    let not_run = |name| Attempt::new(name, Verdict::NotRun, reason.clone());
    names.into_iter().map(not_run).collect()
}
