//! The two temporary pixels.

use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::probe::Token;
use crate::egress::{Mode, Policy};
use crate::lifecycle::create::create_and_start;
use crate::lifecycle::creator::Creator;
use crate::lifecycle::{
    InstanceDefaults, Network, Progress, User, change_policy, identity, provisioning,
};
use crate::model::{Backend, CreateSpec, Error, ExecRequest, Name, Result, UserGuest, random_hex};
use crate::provision;

/// Number of different values for `TestPixels::run`.
const RUNS: u16 = 10_000;
/// A name that the policy of the restricted pixel allows.
const ALLOWED: &str = "pixels-walls.test";
/// A name that only a provisioning lease allows.
pub const LEASE_ONLY: &str = "zmx.sh";

/// A restricted and an unrestricted pixel.
pub struct TestPixels<'a> {
    pub backend: &'a dyn Backend,
    pub cancel: &'a CancellationToken,
    pub defaults: &'a InstanceDefaults,
    pub restricted: Name,
    pub open: Name,
    /// Distinguishes the packets of concurrent runs.
    pub run: u16,
    pub progress: Progress<'a>,
}

pub fn restricted_policy() -> Policy {
    Policy::new(Mode::Allowlist, ALLOWED.parse().ok())
}

impl<'a> TestPixels<'a> {
    pub fn new(
        backend: &'a dyn Backend,
        cancel: &'a CancellationToken,
        defaults: &'a InstanceDefaults,
        progress: Progress<'a>,
    ) -> Result<Self> {
        let random = random_hex(2).map_err(|error| Error::io("reading random", error))?;
        let run = u16::from_str_radix(&random, 16).unwrap_or_default() % RUNS;
        Ok(Self {
            backend,
            cancel,
            defaults,
            restricted: format!("walls-{run:04}-restricted").parse()?,
            open: format!("walls-{run:04}-open").parse()?,
            run,
            progress,
        })
    }

    pub async fn create(&self, creator: &Creator, image: &str) -> Result<()> {
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

    pub async fn set_policy(&self, name: &Name, policy: &Policy) -> Result<()> {
        let change = |current: &mut Policy| {
            *current = policy.clone();
            Ok(())
        };
        let gateway_spec = &self.defaults.gateway;
        let changed = change_policy(self.backend, self.cancel, gateway_spec, name, &change).await;
        changed.map(drop).map_err(|error| error.source)
    }

    pub async fn has_perl(&self) -> Result<bool> {
        let guest = self.backend.guest(&self.restricted);
        let request = ExecRequest::root(["/bin/sh", "-c", "command -v perl"]);
        Ok(guest.output(&request).await?.status.success())
    }

    /// The facts that do not depend on the server.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        facts.set("allowed", [ALLOWED]);
        facts.set("broadcast", ["ff:ff:ff:ff:ff:ff"]);
        facts.set("denied", [format!("203.0.113.{}", 1 + self.run % 250)]);
        facts
    }

    /// The token of commands that are not attempts.
    pub fn setup_token(&self) -> Token {
        Token {
            run: self.run,
            number: 0,
        }
    }
}
