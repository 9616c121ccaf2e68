//! The network of new pixels, its gateway and the egress policy.

use crate::cli::Context;
use crate::config::{BackendKind, EgressPlacement, Origin, Settings};
use crate::egress::{self, Policy, Rule};
use crate::exit::Usage;
use crate::host;
use crate::lifecycle::gateway::{DEFAULT_BRIDGE, GatewaySpec};
use crate::lifecycle::{GuestPolicy, Network};
use crate::model::{Name, fnv1a};

/// The network of new pixels: behind a gateway, or an existing network, where
/// each pixel enforces its own policy.
pub fn network_from_settings(context: &Context) -> anyhow::Result<Network> {
    let settings = context.settings();
    let guest_policy = GuestPolicy {
        dns: settings.defaults.dns.clone(),
    };
    Ok(match settings.network.placement {
        EgressPlacement::Pixel => Network::External(guest_policy),
        EgressPlacement::Auto if has_external_network(settings) => Network::External(guest_policy),
        EgressPlacement::Auto | EgressPlacement::Gateway => {
            Network::Gateway(gateway_from_settings(context)?)
        }
    })
}

/// Whether the settings name a network, or the backend cannot run a gateway.
fn has_external_network(settings: &Settings) -> bool {
    let defaults = &settings.defaults;
    settings.backend != BackendKind::Incus
        || defaults.network.is_some()
        || defaults.parent.is_some()
        || defaults.nic_type.is_some()
}

/// The gateway of new pixels, and how to create it.
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
        name: Name::gateway(None),
        bridge: String::new(),
        subnet,
        any_subnet: settings.network.subnet.is_none(),
        dns: settings.defaults.dns.clone(),
        // The image that `setup` builds has all packages of a gateway.
        built_image_prefix: host::FALLBACK_IMAGE_PREFIX.to_owned(),
        image: settings.defaults.image.clone(),
        learned: None,
    };
    Ok(gateway_spec.for_bridge(&bridge))
}

/// The bridge of the settings. Incus bridges belong to the server and pixels to
/// a project, so each project gets its own bridge unless the user sets a name.
fn bridge_name(context: &Context) -> String {
    let settings = context.settings();
    let named_by_user = context.loaded.origin("network.bridge") != Some(&Origin::Default);
    match settings.incus.project.as_deref() {
        Some(project) if !named_by_user && project != "default" => {
            format!("px-{:08x}", fnv1a(project.bytes()))
        }
        _ => settings.network.bridge.clone(),
    }
}

/// The policy of settings and flags, with the rules for all modes: pass it to
/// [`Policy::in_mode`] for the policy of a pixel.
pub fn settings_policy(context: &Context) -> anyhow::Result<Policy> {
    let network = &context.settings().network;
    let mut rules = Vec::new();
    for text in &network.allow {
        let rule = text.parse::<Rule>();
        rules.push(rule.map_err(|e| Usage(format!("network.allow: {e}")))?);
    }
    let mut policy = Policy::new(network.egress, rules);
    policy.lan = network.lan;
    policy.preset_cidrs = network.preset_cidrs;
    Ok(policy)
}
