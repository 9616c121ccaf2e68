//! `pixels create`

use std::time::{Duration, Instant};

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, console, expire, from_settings, status};
use crate::config::Flags;
use crate::egress::{self, Rule};
use crate::exit::Usage;
use crate::lifecycle::{self, CloneNames, CreateOptions, ForkOptions, Network, expiry};
use crate::model::{CloneSource, Limits, Name, parse_cpus, parse_memory};
use crate::provision::Overall;
use crate::ui;

/// Create a pixel from an image, or from another pixel with --from
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the new pixel (a-z, 0-9 and -)
    name: Name,
    /// Image to start from, such as ubuntu/24.04; by default defaults.image
    #[arg(long, conflicts_with = "from")]
    image: Option<String>,
    /// CPUs, as a count or a set such as 0-3; by default defaults.cpu
    #[arg(long, allow_negative_numbers = true, value_parser = unless_empty)]
    cpu: Option<String>,
    /// Memory in MiB, or with a unit such as 4GiB; by default defaults.memory
    #[arg(long, allow_negative_numbers = true, value_parser = unless_zero)]
    memory: Option<u64>,
    /// Clone another pixel's present state, or one of its checkpoints
    #[arg(long, value_name = "NAME[:LABEL]", add = ArgValueCandidates::new(completions::origins))]
    from: Option<CloneSource>,
    /// Let it expire after this time, such as 90m, 2h or 7d; a clone takes over no other's
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = expire::parse_lifetime)]
    ttl: Option<Duration>,
    /// Leave the pixel as the image made it
    #[arg(long)]
    no_provision: bool,
    /// Return when provisioning is over, with exit code 1 when it failed
    #[arg(short, long)]
    wait: bool,
    /// Open a console when it is ready
    #[arg(long)]
    console: bool,
    /// What it may reach: unrestricted, agent or allowlist; by default network.egress
    #[arg(long, value_name = "MODE", add = ArgValueCandidates::new(completions::modes))]
    egress: Option<String>,
    /// Allow this as well: a host, *.host, an address or a network, with an optional :port
    #[arg(long, value_name = "ENTRY", requires = "egress")]
    allow: Vec<Rule>,
}

impl CreateArgs {
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        if let Some(mode) = self.egress.as_ref().filter(|mode| !mode.is_empty()) {
            flags.set("network.egress", mode.clone(), "--egress");
        }
        if !self.allow.is_empty() {
            let entries: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
            flags.set("network.allow", entries, "--allow");
        }
        if self.no_provision {
            flags.set("provision.enabled", false, "--no-provision");
        }
        flags
    }

    pub async fn run(mut self, context: &Context) -> anyhow::Result<()> {
        // Empty is what an unset variable of a script leaves: nothing was asked for.
        self.image = self.image.filter(|image| !image.is_empty());
        self.cpu = self.cpu.filter(|cpu| !cpu.is_empty());
        self.memory = self.memory.filter(|memory| *memory > 0);
        let begun = Instant::now();
        let settings = context.settings();
        if self.egress.as_deref() == Some("") {
            // Nobody shall take a pixel for walled that is not.
            context.ui.warn(&format!(
                "--egress is empty, so network.egress decides: {}",
                settings.network.egress
            ));
        }
        if self.console && !crate::term::interactive() {
            return Err(Usage("--console needs a terminal".into()).into());
        }
        let backend = context.backend()?;
        let network = from_settings::network_from_settings(context)?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let phases = context.ui.phases();
        let progress = |phase: &str| phases.step(phase);
        let mut provisioned = false;
        let mut interim = false;
        let mut facts = json!({"name": self.name.as_str(), "instance": self.name.instance()});
        match &self.from {
            Some(from) => {
                facts["from"] = json!(from.to_string());
                let mut properties =
                    from_settings::policy_for_clone(context, backend, from).await?;
                properties.insert("from".into(), from.to_string());
                properties.extend(expiry::expiry_properties(self.ttl)?);
                let options = ForkOptions {
                    from: from.clone(),
                    names: CloneNames::One(self.name.clone()),
                    limits: Limits {
                        cpu: self.cpu.clone(),
                        memory: self.memory,
                    },
                    properties,
                    network,
                };
                lifecycle::fork(backend, context.cancel(), options, &progress, &|_| {}).await?;
            }
            None => {
                // Bad settings are told before anything is made.
                let plan = from_settings::plan_from_settings(context)?;
                let mut properties =
                    from_settings::policy_for_new(context, &network, plan.is_some())?;
                interim = properties.contains_key(egress::INTERIM);
                if matches!(network, Network::External(_))
                    && plan.is_none()
                    && !properties.is_empty()
                {
                    context.ui.warn(
                        "without provisioning, commands run as root in this pixel, and root can \
                         lift the policy inside it",
                    );
                }
                if self.ttl.is_some() {
                    properties.extend(expiry::expiry_properties(self.ttl)?);
                }
                let image = match &self.image {
                    Some(image) => image.clone(),
                    None => default_image(context).await?,
                };
                facts["image"] = json!(image);
                provisioned = plan.is_some();
                let defaults = &settings.defaults;
                let options = CreateOptions {
                    name: self.name.clone(),
                    image,
                    limits: Limits {
                        cpu: self.cpu.clone().or_else(|| defaults.cpu.clone()),
                        memory: self
                            .memory
                            .or_else(|| defaults.memory_mib.map(|mib| mib * 1024 * 1024)),
                    },
                    properties,
                    network,
                    provision: plan,
                };
                lifecycle::create(backend, context.cancel(), options, &progress).await?;
            }
        }
        drop(phases);
        let took = begun.elapsed();
        facts["status"] = json!("RUNNING");
        facts["elapsed_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let mut sentence = format!(
            "Created {} in {}\n  Hostname: {}\n  Console:  pixels console {}",
            self.name.instance(),
            ui::elapsed(took),
            self.name.instance(),
            self.name,
        );
        if provisioned && !self.console && !self.wait {
            sentence.push_str(&format!("\n  Status:   pixels status {}", self.name));
        }
        if !self.wait && !self.console && !interim {
            context.ui.done(&sentence, &facts);
            return Ok(());
        }
        let report = status::wait(context, backend, &self.name).await;
        if interim {
            // Whatever came of the waiting, an interrupt included.
            lifecycle::end_interim_policy(backend, &gateway_spec, &self.name).await?;
        }
        let report = report?;
        if report.overall != Overall::None {
            facts["provision"] = json!(report.overall);
        }
        context.ui.done(&sentence, &facts);
        let outcome = status::report_failure(context, &self.name, &report).await;
        match (self.console, outcome) {
            // A pixel half-ready is best looked at from inside.
            (true, Err(failed)) => context.ui.warn(&failed.to_string()),
            (true, Ok(())) => {}
            (false, outcome) => return outcome,
        }
        console::open(context, &self.name, console::SESSION, true).await
    }
}

fn unless_empty(cpus: &str) -> Result<String, String> {
    match cpus {
        "" => Ok(String::new()),
        cpus => parse_cpus(cpus),
    }
}

fn unless_zero(memory: &str) -> Result<u64, String> {
    match memory {
        "0" => Ok(0),
        memory => parse_memory(memory),
    }
}

/// The image for a pixel created without `--image`. If nobody configured an
/// image and the server lacks the default one, this is the image that
/// `pixels setup` built.
pub async fn default_image(context: &Context) -> anyhow::Result<String> {
    let configured = &context.settings().defaults.image;
    let Some(default) = from_settings::default_image_from_settings(context) else {
        return Ok(configured.clone());
    };
    let work = default.resolve(context.backend()?);
    let image = context.unless_interrupted(work).await?;
    if image != *configured {
        context.ui.status(&format!(
            "No image {configured} on this server: using {image}, which pixels setup built"
        ));
    }
    Ok(image)
}
