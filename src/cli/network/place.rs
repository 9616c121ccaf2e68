//! Settings to where pixels are put and what they may reach.

use crate::cli::Context;
use crate::config::{BackendKind, EgressMode, EgressPlacement, Origin as SettingOrigin, Settings};
use crate::egress::{self, Entry, Mode, Policy};
use crate::exit::Usage;
use crate::host;
use crate::lifecycle::gateway::{Gateway, SEGMENT};
use crate::lifecycle::{self, Inside, Network};
use crate::sandbox::{Error, Origin, Properties, Sandbox, Subject};

/// Where the settings put new pixels.
pub fn of(context: &Context) -> anyhow::Result<Network> {
    let settings = context.settings();
    let inside = Inside {
        dns: settings.defaults.dns.clone(),
    };
    Ok(match settings.network.placement {
        EgressPlacement::Pixel => Network::Open(inside),
        EgressPlacement::Auto if has_own_network(settings) => Network::Open(inside),
        EgressPlacement::Auto | EgressPlacement::Gateway => Network::Behind(like(context)?),
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
pub fn like(context: &Context) -> anyhow::Result<Gateway> {
    let settings = context.settings();
    let segment = segment(context);
    let subnet = match &settings.network.subnet {
        Some(text) => text
            .parse()
            .map_err(|e: egress::gateway::InvalidSubnet| Usage(e.to_string()))?,
        None => egress::gateway::Subnet::for_segment(&segment, SEGMENT),
    };
    let like = Gateway {
        name: crate::sandbox::Name::gateway(None),
        segment: String::new(),
        subnet,
        dns: settings.defaults.dns.clone(),
        // The one that `setup` builds has everything a gateway needs in it.
        built: host::FALLBACK_IMAGE_PREFIX.to_owned(),
        image: settings.defaults.image.clone(),
        learned: None,
    };
    Ok(like.of(&segment))
}

/// Bridges belong to the server and pixels to a project: every project has
/// one of its own, unless somebody names one.
fn segment(context: &Context) -> String {
    let settings = context.settings();
    let origin = context.loaded.origins.get("network.bridge");
    let chosen = origin.is_some_and(|entry| entry.origin != SettingOrigin::Default);
    match settings.incus.project.as_deref() {
        Some(project) if !chosen && project != "default" => {
            format!("px-{:08x}", hash(project))
        }
        _ => settings.network.bridge.clone(),
    }
}

/// FNV-1a: the same on every machine.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// What the settings and flags let a new pixel reach.
fn wanted(context: &Context) -> anyhow::Result<Policy> {
    let network = &context.settings().network;
    let mode = match network.egress {
        EgressMode::Unrestricted => Mode::Unrestricted,
        EgressMode::Agent => Mode::Agent,
        EgressMode::Allowlist => Mode::Allowlist,
    };
    let mut allow = Vec::new();
    for text in &network.allow {
        let entry = text.parse::<Entry>();
        allow.push(entry.map_err(|e| Usage(format!("network.allow: {e}")))?);
    }
    let mut policy = Policy::new(mode, allow);
    policy.lan = network.lan;
    policy.preset_cidrs = network.preset_cidrs;
    if mode == Mode::Unrestricted {
        // A name says nothing where all are allowed.
        policy
            .allow
            .retain(|entry| matches!(entry.target, egress::Target::Net(_)));
    }
    Ok(policy)
}

/// The policy of a new pixel in this mode, with what `network.allow` adds.
pub(super) fn in_mode(context: &Context, mode: Mode) -> anyhow::Result<Policy> {
    let mut policy = wanted(context)?;
    if mode != policy.mode {
        let mut allow = Vec::new();
        for text in &context.settings().network.allow {
            let entry = text.parse::<Entry>();
            allow.push(entry.map_err(|e| Usage(format!("network.allow: {e}")))?);
        }
        allow.retain(|entry| {
            mode != Mode::Unrestricted || matches!(entry.target, egress::Target::Net(_))
        });
        policy.mode = mode;
        policy.allow = allow;
    }
    Ok(policy)
}

/// The records of a new pixel. `installs`: it still fetches packages before it
/// is ready; what that needs is then allowed until [`lifecycle::narrow`].
pub fn policy_for_new(
    context: &Context,
    network: &Network,
    installs: bool,
) -> anyhow::Result<Properties> {
    let policy = wanted(context)?;
    if policy == Policy::new(Mode::Unrestricted, []) {
        return Ok(Properties::new());
    }
    if matches!(network, Network::Open(_)) && policy.mode == Mode::Unrestricted {
        return Ok(Properties::new());
    }
    let mut properties = Properties::from([(egress::KEY.to_owned(), policy.to_record())]);
    if installs && policy.mode == Mode::Allowlist {
        let interim = Policy {
            mode: Mode::Agent,
            ..policy
        };
        properties.insert(egress::INTERIM.to_owned(), interim.to_record());
    }
    Ok(properties)
}

/// What is put on record over what a clone inherits: a policy that was asked
/// for on the command line, else that of the settings where the source is
/// under none.
pub async fn policy_for_clone(
    context: &Context,
    sandbox: &dyn Sandbox,
    from: &Origin,
) -> anyhow::Result<Properties> {
    let asked = matches!(
        context
            .loaded
            .origins
            .get("network.egress")
            .map(|entry| &entry.origin),
        Some(SettingOrigin::Flag(_))
    );
    let policy = wanted(context)?;
    let record = |policy: &Policy| {
        Properties::from([
            (egress::KEY.to_owned(), policy.to_record()),
            (egress::INTERIM.to_owned(), String::new()),
        ])
    };
    if asked {
        return Ok(record(&policy));
    }
    if policy.mode == Mode::Unrestricted {
        return Ok(Properties::new());
    }
    let source = source_policy(sandbox, from).await?;
    Ok(match source.mode {
        Mode::Unrestricted => record(&policy),
        _ => Properties::new(),
    })
}

async fn source_policy(sandbox: &dyn Sandbox, from: &Origin) -> anyhow::Result<Policy> {
    let mut source = sandbox.get(&from.pixel).await?;
    if let Some(label) = &from.label {
        let checkpoints = sandbox.checkpoints(&from.pixel).await?;
        let found = checkpoints.into_iter().find(|found| found.label == *label);
        let missing = || Error::NotFound(Subject::checkpoint(&from.pixel, label));
        source.properties = found.ok_or_else(missing)?.properties;
    }
    Ok(lifecycle::policy(&source)?)
}
