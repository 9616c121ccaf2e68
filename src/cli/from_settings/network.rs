//! Settings to where pixels are put and what they may reach.

use crate::cli::Context;
use crate::config::{BackendKind, EgressMode, EgressPlacement, Origin as SettingOrigin, Settings};
use crate::egress::{self, Mode, Policy, Rule};
use crate::exit::Usage;
use crate::host;
use crate::lifecycle::gateway::{DEFAULT_BRIDGE, GatewaySpec};
use crate::lifecycle::{self, GuestPolicy, Network};
use crate::model::{Backend, CloneSource, Properties};

/// Where the settings put new pixels.
pub fn network_from_settings(context: &Context) -> anyhow::Result<Network> {
    let settings = context.settings();
    let inside = GuestPolicy {
        dns: settings.defaults.dns.clone(),
    };
    Ok(match settings.network.placement {
        EgressPlacement::Pixel => Network::External(inside),
        EgressPlacement::Auto if has_own_network(settings) => Network::External(inside),
        EgressPlacement::Auto | EgressPlacement::Gateway => {
            Network::Gateway(gateway_from_settings(context)?)
        }
    })
}

/// The user has a network for the pixels, or the server is of another kind.
fn has_own_network(settings: &Settings) -> bool {
    let defaults = &settings.defaults;
    settings.backend != BackendKind::Incus
        || defaults.network.is_some()
        || defaults.parent.is_some()
        || defaults.nic_type.is_some()
}

/// How the settings make a gateway.
pub fn gateway_from_settings(context: &Context) -> anyhow::Result<GatewaySpec> {
    let settings = context.settings();
    let bridge = bridge_name(context);
    let subnet = match &settings.network.subnet {
        Some(text) => text
            .parse()
            .map_err(|e: egress::gateway::InvalidSubnet| Usage(e.to_string()))?,
        None => egress::gateway::Subnet::for_bridge(&bridge, DEFAULT_BRIDGE),
    };
    let gateway_spec = GatewaySpec {
        name: crate::model::Name::gateway(None),
        bridge: String::new(),
        subnet,
        any_subnet: settings.network.subnet.is_none(),
        dns: settings.defaults.dns.clone(),
        // The one that `setup` builds has everything a gateway needs in it.
        built_image_prefix: host::FALLBACK_IMAGE_PREFIX.to_owned(),
        image: settings.defaults.image.clone(),
        learned: None,
    };
    Ok(gateway_spec.for_bridge(&bridge))
}

/// Bridges belong to the server and pixels to a project: every project has
/// one of its own, unless somebody names one.
fn bridge_name(context: &Context) -> String {
    let settings = context.settings();
    let chosen = context.loaded.origin("network.bridge") != Some(&SettingOrigin::Default);
    match settings.incus.project.as_deref() {
        Some(project) if !chosen && project != "default" => {
            format!("px-{:08x}", fnv1a(project))
        }
        _ => settings.network.bridge.clone(),
    }
}

/// FNV-1a: the same on every machine.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// What the settings and flags say of policies, whatever the mode.
pub fn settings_policy(context: &Context) -> anyhow::Result<Policy> {
    let network = &context.settings().network;
    let mode = match network.egress {
        EgressMode::Unrestricted => Mode::Unrestricted,
        EgressMode::Agent => Mode::Agent,
        EgressMode::Allowlist => Mode::Allowlist,
    };
    let mut allow = Vec::new();
    for text in &network.allow {
        let entry = text.parse::<Rule>();
        allow.push(entry.map_err(|e| Usage(format!("network.allow: {e}")))?);
    }
    let mut policy = Policy::new(mode, allow);
    policy.lan = network.lan;
    policy.preset_cidrs = network.preset_cidrs;
    Ok(policy)
}

/// What the settings and flags let a new pixel reach.
fn default_policy(context: &Context) -> anyhow::Result<Policy> {
    let policy = settings_policy(context)?;
    Ok(policy.in_mode(policy.mode))
}

/// The policy of a new pixel in this mode, with what `network.allow` adds.
pub fn default_policy_in_mode(context: &Context, mode: Mode) -> anyhow::Result<Policy> {
    Ok(settings_policy(context)?.in_mode(mode))
}

/// Properties that record the policy of a new pixel; see
/// [`Network::new_policy_properties`].
pub fn policy_for_new(
    context: &Context,
    network: &Network,
    installs: bool,
) -> anyhow::Result<Properties> {
    let policy = default_policy(context)?;
    Ok(network.new_policy_properties(&policy, installs))
}

/// What is put on record over what a clone inherits: a policy that was asked
/// for on the command line, else that of the settings where the source is
/// under none.
pub async fn policy_for_clone(
    context: &Context,
    backend: &dyn Backend,
    from: &CloneSource,
) -> anyhow::Result<Properties> {
    let origin = context.loaded.origin("network.egress");
    let asked = matches!(origin, Some(SettingOrigin::Flag(_)));
    let policy = default_policy(context)?;
    let asked = asked.then_some(&policy);
    Ok(lifecycle::clone_policy_properties(backend, asked, &policy, from).await?)
}
