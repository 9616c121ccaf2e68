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
    /// Add rules to the egress policy of a pixel
    #[command(after_help = examples!(
        "pixels network allow box example.org '*.cdn.example.org:443'"
        "pixels network allow box 192.0.2.0/24"
    ))]
    Allow(set_allow_deny::RulesArgs),
    /// Remove rules, preset rules included, from the policy of a pixel
    #[command(after_help = examples!(
        "pixels network deny box gitlab.com"
        "pixels network deny box '*.cdn.example.org:443' 192.0.2.0/24"
    ))]
    Deny(set_allow_deny::RulesArgs),
    Check(check::CheckArgs),
    Log(log::LogArgs),
    /// Print the rules of the mode agent
    #[command(after_help = examples!(
        "pixels network presets"
        "pixels network presets --json"
    ))]
    Presets,
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
}

impl NetworkCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Show(args) => args.run(context).await,
            Self::Set(args) => args.run(context).await,
            Self::Allow(args) => args.allow(context).await,
            Self::Deny(args) => args.deny(context).await,
            Self::Check(args) => args.run(context).await,
            Self::Log(args) => args.run(context).await,
            Self::Presets => {
                presets::run(context);
                Ok(())
            }
            Self::Gateway(command) => command.run(context).await,
        }
    }
}
