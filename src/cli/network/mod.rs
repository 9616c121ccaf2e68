//! `pixels network`: egress policies and the gateway

mod check;
mod gateway;
mod log;
mod presets;
mod set_allow_deny;
mod show;

use clap::Subcommand;

use super::Context;

/// Show and change egress policies and the gateway
///
/// A policy is a mode (unrestricted, agent or allowlist) and rules. A rule is a host,
/// *.host for all subdomains, an address or a CIDR, each with an optional :port.
#[derive(Debug, Subcommand)]
#[command(after_help = examples!(
    "pixels network show box"
    "pixels network set box allowlist --allow github.com"
    "pixels network allow box '*.pypi.org:443'"
    "pixels network log box"
))]
pub enum NetworkCommand {
    Show(show::ShowArgs),
    Set(set_allow_deny::SetArgs),
    Allow(set_allow_deny::AllowArgs),
    Deny(set_allow_deny::DenyArgs),
    Check(check::CheckArgs),
    Log(log::LogArgs),
    Presets(presets::PresetsArgs),
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
}

impl NetworkCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Show(args) => args.run(context).await,
            Self::Set(args) => args.run(context).await,
            Self::Allow(args) => args.run(context).await,
            Self::Deny(args) => args.run(context).await,
            Self::Check(args) => args.run(context).await,
            Self::Log(args) => args.run(context).await,
            Self::Presets(args) => args.run(context),
            Self::Gateway(command) => command.run(context).await,
        }
    }
}
