//! `pixels network check`

use std::net::IpAddr;

use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::cli::pixel_arg::PixelArg;
use crate::egress::{Rule, Target, Verdict, presets};
use crate::exit::{self, ExitWith, Usage};
use crate::lifecycle::{self, Enforcer};

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
        let policy = lifecycle::recorded_policy(&pixel)?.resolve(presets());
        let several = || Usage(format!("expected one host or address, not {host}"));
        let verdict = match &host.target {
            Target::Host(name) => policy.check_host(name, host.port),
            Target::Net(net) => {
                let address: IpAddr = net.to_string().parse().map_err(|_| several())?;
                policy.check_address(address, host.port)
            }
            Target::Subdomains(_) => return Err(several().into()),
        };
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
