//! `pixels create`

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::{
    Context, completions, console_session, duration_arg, from_settings, provisioning_report,
};
use crate::config::Flags;
use crate::egress::{Mode, Rule};
use crate::exit::Usage;
use crate::lifecycle::{InstanceDefaults, Network, PixelRequest, PixelSource, expiry};
use crate::model::{CloneSource, Limits, Name, Properties, parse_cpus, parse_disk, parse_memory};
use crate::provision::Overall;
use crate::ui;

/// Create a pixel from an image, or clone a pixel
///
/// With the policy allowlist, provisioning may also reach the preset of the mode
/// agent, at most 30 minutes, and the command waits until provisioning ends.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels create box"
    "pixels create box --image pixels/debian-12 --cpu 2 --memory 4GiB --wait"
    "pixels create box --egress allowlist --allow github.com --allow '*.pypi.org:443'"
    "pixels create try --from box:ready --ttl 2h"
    "pixels create work --from base-python --console"
))]
pub struct CreateArgs {
    /// Name of the new pixel (a-z, 0-9 and -)
    name: Name,
    /// Image, such as ubuntu/24.04 [default: setting defaults.image]
    #[arg(long, conflicts_with = "from")]
    image: Option<String>,
    /// Number of CPUs, or a set such as 0-3 [default: setting defaults.cpu]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_cpus_or_empty)]
    cpu: Option<String>,
    /// Memory in MiB, or with a unit such as 4GiB [default: setting defaults.memory]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_memory_or_zero)]
    memory: Option<u64>,
    /// Disk space in MiB, or with a unit such as 40GiB [default: setting defaults.disk]
    #[arg(long, allow_negative_numbers = true, value_parser = parse_disk_or_zero)]
    disk: Option<u64>,
    /// Clone this pixel or checkpoint
    #[arg(long, value_name = "NAME[:LABEL]", add = completions::clone_sources())]
    from: Option<CloneSource>,
    /// Delete the pixel after this time, such as 90m, 2h or 7d; not inherited by clones
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = duration_arg::parse_duration_arg)]
    ttl: Option<Duration>,
    /// Skip provisioning
    #[arg(long)]
    no_provision: bool,
    /// Wait for provisioning; exit with 1 if a step fails
    #[arg(short, long)]
    wait: bool,
    /// Wait for provisioning, then open a console
    #[arg(long)]
    console: bool,
    /// Egress policy: unrestricted, agent or allowlist [default: setting network.egress]
    #[arg(long, value_name = "MODE", add = completions::modes())]
    egress: Option<String>,
    /// Also allow a host, *.host, address or CIDR, with an optional :port; repeatable
    #[arg(long, value_name = "RULE", requires = "egress")]
    allow: Vec<Rule>,
}

impl CreateArgs {
    fn egress_mode(&self) -> Option<&str> {
        self.egress.as_deref().filter(|mode| !mode.is_empty())
    }

    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        if let Some(mode) = self.egress_mode() {
            flags.set("network.egress", mode, "--egress");
        }
        if !self.allow.is_empty() {
            let rules: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
            flags.set("network.allow", rules, "--allow");
        }
        if self.no_provision {
            flags.set("provision.enabled", false, "--no-provision");
        }
        flags
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        if self.egress.as_deref() == Some("") {
            // The variable in `--egress "$MODE"` may be unset by mistake.
            context.ui.warn(&format!(
                "--egress is empty: the pixel gets network.egress, which is {}",
                context.settings().network.egress
            ));
        }
        if self.console && !crate::term::interactive() {
            return Err(Usage("--console needs a terminal".into()).into());
        }
        let backend = context.backend()?;
        let plan = match &self.from {
            Some(_) => None,
            None => from_settings::plan_from_settings(context)?,
        };
        let defaults = from_settings::instance_defaults(context, plan)?;
        let mut json = json!({"name": self.name.as_str(), "instance": self.name.instance()});
        let mut properties = match self.ttl {
            Some(ttl) => expiry::expiry_properties(Some(ttl))?,
            None => Properties::new(),
        };
        let source = match &self.from {
            Some(from) => {
                json["from"] = json!(from.to_string());
                properties.insert("from".into(), from.to_string());
                PixelSource::Clone(from.clone())
            }
            None => {
                warn_if_root_can_change_policy(context, &defaults);
                let image = match self.image.as_ref().filter(|image| !image.is_empty()) {
                    Some(image) => image.clone(),
                    None => from_settings::resolve_default_image(context, &defaults).await?,
                };
                json["image"] = json!(image);
                PixelSource::Image(image)
            }
        };
        let request = PixelRequest {
            name: self.name.clone(),
            source,
            // Scripts may pass an empty string or 0 to use the default.
            limits: Limits {
                cpu: self.cpu.clone().filter(|cpu| !cpu.is_empty()),
                memory: self.memory.filter(|memory| *memory > 0),
                disk: self.disk.filter(|disk| *disk > 0),
            },
            policy: self
                .egress_mode()
                .map(|_| defaults.policy.in_mode(defaults.policy.mode)),
            properties,
        };
        let spinner = context.ui.spinner();
        let progress = |phase: &str| spinner.step(phase);
        let lease = defaults
            .create_pixel(backend, context.cancel(), request, &progress)
            .await?;
        drop(spinner);
        let elapsed = started.elapsed();
        json["status"] = json!("RUNNING");
        json["elapsed_ms"] = json!(ui::milliseconds(elapsed));
        let (name, instance) = (&self.name, self.name.instance());
        let mut sentence = format!(
            "Created {instance} in {}\n  Hostname: {instance}\n  Console:  pixels console {name}",
            ui::elapsed(elapsed),
        );
        if defaults.plan.is_some() && !self.console && !self.wait {
            sentence.push_str(&format!("\n  Status:   pixels status {name}"));
        }
        if !self.wait && !self.console && lease.is_none() {
            context.ui.done(&sentence, &json);
            return Ok(());
        }
        let report = provisioning_report::wait(context, name, lease).await?;
        if report.overall != Overall::None {
            json["provision"] = json!(report.overall);
        }
        context.ui.done(&sentence, &json);
        let outcome = provisioning_report::ensure_succeeded(context, name, &report).await;
        if !self.console {
            return outcome;
        }
        // The user can inspect the failed step in the console.
        if let Err(error) = outcome {
            context.ui.warn(&error.to_string());
        }
        console_session::open(context, name, console_session::DEFAULT_NAME, true).await
    }
}

fn warn_if_root_can_change_policy(context: &Context, defaults: &InstanceDefaults) {
    if matches!(defaults.network, Network::External(_))
        && defaults.plan.is_none()
        && defaults.policy.mode != Mode::Unrestricted
    {
        context.ui.warn(
            "without provisioning, commands run as root in this pixel, and root can remove the \
             policy inside it",
        );
    }
}

fn parse_cpus_or_empty(cpus: &str) -> Result<String, String> {
    match cpus {
        "" => Ok(String::new()),
        cpus => parse_cpus(cpus),
    }
}

fn parse_disk_or_zero(disk: &str) -> Result<u64, String> {
    match disk {
        "0" => Ok(0),
        disk => parse_disk(disk),
    }
}

fn parse_memory_or_zero(memory: &str) -> Result<u64, String> {
    match memory {
        "0" => Ok(0),
        memory => parse_memory(memory),
    }
}
