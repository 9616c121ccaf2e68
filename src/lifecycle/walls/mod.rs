//! Proves on the user's server that a restricted pixel cannot bypass its policy:
//! creates two temporary pixels, one restricted and one unrestricted, attacks as
//! root or user of the restricted one, and deletes both.
//!
//! No attempt needs the internet or a machine of another owner. Packets to
//! addresses for documentation (RFC 5737) are observed where they leave the
//! gateway or the pixel. An attempt that fails for the unrestricted pixel too
//! proves nothing and is inconclusive.

mod behind_gateway;
mod facts;
mod inside_pixel;
mod lab;
mod layer2;
mod policy_change;
mod probe;

use facts::Facts;
use probe::Token;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::create::create_and_start;
use super::creator::Creator;
use super::rollback::Rollback;
use super::{
    Error, InstanceDefaults, Network, Progress, User, change_policy, identity, provisioning,
};
use crate::egress::{Mode, Policy};
use crate::model::{
    self, Backend, CreateSpec, ExecRequest, Name, Result, UserGuest, random_hex, unless_cancelled,
};
use crate::provision;

/// Number of different values for `Stage::run`.
const RUNS: u16 = 10_000;
/// A name that the policy of the restricted pixel allows.
const ALLOWED: &str = "pixels-walls.test";
/// A name that only a provisioning lease allows.
const LEASE_ONLY: &str = "zmx.sh";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Blocked,
    GotOut,
    /// The attempt failed, but would have failed without a policy too.
    Inconclusive,
    NotRun,
}

/// The result of an attempt to bypass a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    pub attempt: String,
    pub result: Verdict,
    /// How the attempt succeeded, or why it proves nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Attempt {
    fn new(attempt: &str, result: Verdict, detail: String) -> Self {
        Self {
            attempt: attempt.to_owned(),
            result,
            detail,
        }
    }
}

/// The results of all attempts.
#[derive(Debug)]
pub struct Proof {
    pub attempts: Vec<Attempt>,
    /// Leftovers that cleanup could not delete, each with a command.
    pub leftovers: Vec<String>,
}

/// The two pixels.
struct Stage<'a> {
    backend: &'a dyn Backend,
    defaults: &'a InstanceDefaults,
    restricted: Name,
    open: Name,
    /// Distinguishes the packets of concurrent runs.
    run: u16,
    progress: Progress<'a>,
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
    let stage = Stage::new(backend, defaults, progress)?;
    let mut undo = Rollback::new(backend, &creator);
    undo.track_pixel(&stage.restricted);
    undo.track_pixel(&stage.open);
    let work = async {
        stage.create(&creator, image).await?;
        if !stage.has_perl().await? {
            return Ok(stage.not_run(image));
        }
        match network {
            Network::Gateway(gateway) => behind_gateway::run(&stage, gateway, cancel).await,
            Network::External(_) => inside_pixel::run(&stage, cancel).await,
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

fn restricted_policy() -> Policy {
    Policy::new(Mode::Allowlist, ALLOWED.parse().ok())
}

impl<'a> Stage<'a> {
    fn new(
        backend: &'a dyn Backend,
        defaults: &'a InstanceDefaults,
        progress: Progress<'a>,
    ) -> Result<Self> {
        let random = random_hex(2).map_err(|error| model::Error::io("reading random", error))?;
        let run = u16::from_str_radix(&random, 16).unwrap_or_default() % RUNS;
        Ok(Self {
            backend,
            defaults,
            restricted: format!("walls-{run:04}-restricted").parse()?,
            open: format!("walls-{run:04}-open").parse()?,
            run,
            progress,
        })
    }

    async fn create(&self, creator: &Creator, image: &str) -> Result<()> {
        let network = &self.defaults.network;
        let create = async |name: &Name, policy: Policy| {
            let mut properties = network.new_policy_properties(&policy);
            creator.insert_into(&mut properties);
            // Incomplete until its deletion, so that `prune` deletes it if this
            // process is killed.
            provisioning::insert_applying(creator, &mut properties);
            network.insert_address(&mut properties);
            let spec = CreateSpec {
                first_boot: identity::first_boot(creator, name),
                name: name.clone(),
                image: image.to_owned(),
                network: network.attachment(),
                limits: self.defaults.limits.clone(),
                properties,
            };
            create_and_start(self.backend, network, &spec, self.progress).await
        };
        tokio::try_join!(
            create(&self.restricted, restricted_policy()),
            create(&self.open, Policy::new(Mode::Unrestricted, []))
        )?;
        if matches!(network, Network::External(_)) {
            // The policy inside applies to the user of a provisioned pixel.
            let mut plan = provision::plan(&provision::Options {
                sessions: provision::Sessions::None,
                ..provision::Options::default()
            });
            plan.remove_sudo();
            let guest = || self.backend.guest(&self.restricted);
            let user_guest = UserGuest::new(guest(), User::expected(true).ids);
            provision::apply(&*guest(), &user_guest, &plan).await?;
        }
        Ok(())
    }

    async fn set_policy(
        &self,
        name: &Name,
        policy: &Policy,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let change = |current: &mut Policy| {
            *current = policy.clone();
            Ok(())
        };
        let gateway_spec = &self.defaults.gateway;
        let changed = change_policy(self.backend, cancel, gateway_spec, name, &change).await;
        changed.map_err(|error| error.source)
    }

    async fn has_perl(&self) -> Result<bool> {
        let guest = self.backend.guest(&self.restricted);
        let request = ExecRequest::root(["/bin/sh", "-c", "command -v perl"]);
        Ok(guest.output(&request).await?.status.success())
    }

    fn not_run(&self, image: &str) -> Vec<Attempt> {
        let names: Vec<&str> = match &self.defaults.network {
            Network::Gateway(_) => behind_gateway::names().collect(),
            Network::External(_) => inside_pixel::names().collect(),
        };
        let reason = format!("image {image} has no perl");
        let not_run = |name| Attempt::new(name, Verdict::NotRun, reason.clone());
        names.into_iter().map(not_run).collect()
    }

    /// The facts that do not depend on the server.
    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        facts.set("allowed", [ALLOWED]);
        facts.set("broadcast", ["ff:ff:ff:ff:ff:ff"]);
        facts.set("denied", [format!("203.0.113.{}", 1 + self.run % 250)]);
        facts
    }

    /// The token of commands that are not attempts.
    fn setup_token(&self) -> Token {
        Token {
            run: self.run,
            number: 0,
        }
    }
}
