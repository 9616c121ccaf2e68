//! `pixels network check`

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::pixel_arg::PixelArg;
use crate::cli::{Context, from_settings};
use crate::egress::{ResolvedPolicy, Rule, Target, Verdict, presets};
use crate::exit::{self, ExitWith, Usage};
use crate::lifecycle::{self, Enforcer, expiry};
use crate::model::Instance;

/// Check whether a pixel may reach a host, and which rule allows it
///
/// Exits with 1 if the host is denied.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network check box github.com"
    "pixels network check box 192.0.2.7:443"
))]
pub struct CheckArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// A host or an address
    #[arg(value_name = "HOST[:PORT]")]
    host: Rule,
}

/// Why a host is allowed.
struct Permission {
    /// `None` if the mode allows all hosts.
    rule: Option<Rule>,
    /// Remaining time of the lease. `None` if the host is allowed without a lease.
    lease: Option<Duration>,
    /// Whether the rule is for a name that has resolved to the address.
    is_learned: bool,
}

impl CheckArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (name, host) = (&self.pixel.name, &self.host);
        let pixel = context.get(name).await?;
        let permission = self.find(context, &pixel).await?;
        let enforcer = Enforcer::of_instance(&pixel);
        let allowed = permission.is_some() || enforcer == Enforcer::None;
        let sentence = match &permission {
            _ if enforcer == Enforcer::None => {
                format!("{host} is allowed: no policy is enforced on this pixel's network")
            }
            None => format!("{host} is denied"),
            Some(Permission { rule: None, .. }) => {
                format!("{host} is allowed: the policy is unrestricted")
            }
            Some(Permission {
                rule: Some(rule),
                lease,
                is_learned,
            }) => {
                let end = lease.map_or("", |_| " until provisioning ends");
                match is_learned {
                    true => format!("{host} is allowed by {rule}{end}, from an earlier DNS answer"),
                    false => format!("{host} is allowed by {rule}{end}"),
                }
            }
        };
        let lease = permission.as_ref().and_then(|it| it.lease);
        context.ui.done(
            &sentence,
            &json!({
                "name": name.as_str(),
                "host": host,
                "allowed": allowed,
                "by": permission.and_then(|it| it.rule),
                "enforced_by": enforcer.name(),
                "lease_until": lease.and_then(expiry::after),
            }),
        );
        if allowed {
            return Ok(());
        }
        context.ui.status(&format!(
            "Allow it with: pixels network allow {name} {host}"
        ));
        Err(ExitWith(exit::FAILURE).into())
    }

    /// Returns why the host is allowed, or `None` if the host is denied.
    async fn find(
        &self,
        context: &Context,
        pixel: &Instance,
    ) -> anyhow::Result<Option<Permission>> {
        let policy = lifecycle::recorded_policy(pixel)?.resolve(presets());
        if let Verdict::Allowed { by } = self.verdict(&policy)? {
            return Ok(Some(Permission {
                rule: by,
                lease: None,
                is_learned: false,
            }));
        }
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let mut policies = vec![(policy, None)];
        if let Some(leased) = lifecycle::policy_during_lease(pixel)? {
            let leased = leased.resolve(presets());
            // Otherwise a lease makes no difference.
            if self.verdict(&leased)? != Verdict::Denied || self.address().is_some() {
                let remaining = lifecycle::lease(backend, &gateway_spec, pixel);
                if let Some(lease) = context.unless_interrupted(remaining).await? {
                    policies.push((leased, Some(lease)));
                }
            }
        }
        for (policy, lease) in policies {
            if let Verdict::Allowed { by } = self.verdict(&policy)? {
                return Ok(Some(Permission {
                    rule: by,
                    lease,
                    is_learned: false,
                }));
            }
            let Some(address) = self.address() else {
                continue;
            };
            let port = self.host.port;
            let learned =
                lifecycle::learned_rule(backend, &gateway_spec, pixel, &policy, address, port);
            let learned = context.unless_interrupted(async { Ok(learned.await) });
            let learned = learned.await?.unwrap_or_else(|error| {
                tracing::warn!("cannot read the addresses of DNS answers: {error}");
                None
            });
            if let Some(rule) = learned {
                return Ok(Some(Permission {
                    rule: Some(rule),
                    lease,
                    is_learned: true,
                }));
            }
        }
        Ok(None)
    }

    fn address(&self) -> Option<IpAddr> {
        match &self.host.target {
            Target::Net(net) => net.to_string().parse().ok(),
            _ => None,
        }
    }

    /// Returns the verdict of a policy. Fails if the argument is not one host or address.
    fn verdict(&self, policy: &ResolvedPolicy) -> Result<Verdict, Usage> {
        let port = self.host.port;
        match (&self.host.target, self.address()) {
            (Target::Host(name), _) => Ok(policy.check_host(name, port)),
            (_, Some(address)) => Ok(policy.check_address(address, port)),
            _ => Err(Usage(format!(
                "expected one host or address, not {}",
                self.host
            ))),
        }
    }
}
