//! `pixels network check`

use std::net::IpAddr;

use clap::Args;
use serde_json::json;

use crate::cli::pixel_arg::PixelArg;
use crate::cli::{Context, from_settings};
use crate::egress::{Policy, Rule, Target, Verdict, presets};
use crate::exit::{self, ExitWith, Usage};
use crate::lifecycle::{self, Enforcer, expiry};

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

impl CheckArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self { pixel, host } = self;
        let name = pixel.name;
        let pixel = context.get(&name).await?;
        let policy = lifecycle::recorded_policy(&pixel)?;
        let several = || Usage(format!("expected one host or address, not {host}"));
        let check = |policy: &Policy| {
            let policy = policy.resolve(presets());
            match &host.target {
                Target::Host(name) => Ok(policy.check_host(name, host.port)),
                Target::Net(net) => {
                    let address: IpAddr = net.to_string().parse().map_err(|_| several())?;
                    Ok(policy.check_address(address, host.port))
                }
                Target::Subdomains(_) => Err(several()),
            }
        };
        let (mut verdict, mut lease) = (check(&policy)?, None);
        if verdict == Verdict::Denied
            && let Some(leased) = lifecycle::policy_during_lease(&pixel)?
            && let Verdict::Allowed { by } = check(&leased)?
        {
            let gateway_spec = from_settings::gateway_from_settings(context)?;
            let remaining = lifecycle::lease(context.backend()?, &gateway_spec, &pixel);
            lease = context.unless_interrupted(remaining).await?;
            if lease.is_some() {
                verdict = Verdict::Allowed { by };
            }
        }
        let enforcer = Enforcer::of_instance(&pixel);
        let (permitted, by) = match verdict {
            Verdict::Allowed { by } => (true, by),
            Verdict::Denied => (false, None),
        };
        let allowed = permitted || enforcer == Enforcer::None;
        let sentence = match &by {
            _ if enforcer == Enforcer::None => {
                format!("{host} is allowed: no policy is enforced on this pixel's network")
            }
            _ if !permitted => format!("{host} is denied"),
            Some(rule) if lease.is_some() => {
                format!("{host} is allowed by {rule} until provisioning ends")
            }
            Some(rule) => format!("{host} is allowed by {rule}"),
            None => format!("{host} is allowed: the policy is unrestricted"),
        };
        context.ui.done(
            &sentence,
            &json!({
                "name": name.as_str(),
                "host": host,
                "allowed": allowed,
                "by": by,
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
}
