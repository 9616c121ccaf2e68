//! `pixels network check`

use std::net::IpAddr;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use crate::cli::{Context, completions};
use crate::egress::{Rule, Target, Verdict, presets};
use crate::exit::{ExitWith, Usage};
use crate::lifecycle::{self, Enforcer};
use crate::model::Name;

/// Tell whether a pixel may reach a host, and by which entry; exit code 1 when not
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// A host or an address
    #[arg(value_name = "HOST[:PORT]")]
    host: Rule,
}

impl CheckArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let pixel = context.unless_interrupted(backend.get(&self.name)).await?;
        let policy = lifecycle::recorded_policy(&pixel)?.resolve(presets());
        let port = self.host.port;
        let verdict = match &self.host.target {
            Target::Host(host) => policy.check_host(host, port),
            Target::Net(net) => match net.to_string().parse::<IpAddr>() {
                Ok(address) => policy.check_address(address, port),
                Err(_) => return Err(Usage(format!("{net} is many addresses: check one")).into()),
            },
            Target::Subdomains(_) => {
                return Err(Usage(format!("{} is many hosts: check one", self.host)).into());
            }
        };
        let enforcer = Enforcer::of_instance(&pixel);
        let enforced = enforcer != Enforcer::None;
        let (allowed, by) = match &verdict {
            Verdict::Allowed { by } => (true, by.clone()),
            Verdict::Denied => (false, None),
        };
        let sentence = match (&verdict, enforced) {
            (_, false) => format!(
                "{} is allowed: nothing enforces a policy on this pixel's network",
                self.host
            ),
            (Verdict::Allowed { by: Some(entry) }, _) => {
                format!("{} is allowed by {entry}", self.host)
            }
            (Verdict::Allowed { by: None }, _) => {
                format!("{} is allowed: the policy is unrestricted", self.host)
            }
            (Verdict::Denied, _) => format!("{} is refused", self.host),
        };
        context.ui.done(
            &sentence,
            &json!({
                "name": self.name.as_str(),
                "host": self.host,
                "allowed": allowed || !enforced,
                "by": by,
                "enforced_by": enforcer.name(),
            }),
        );
        if allowed || !enforced {
            return Ok(());
        }
        context.ui.status(&format!(
            "Allow it with: pixels network allow {} {}",
            self.name, self.host
        ));
        Err(ExitWith(1).into())
    }
}
