//! `pixels doctor`

use clap::Args;

use super::{Context, error_report, from_settings};
use crate::config::BackendKind;
use crate::exit::{self, ExitWith};
use crate::host::{self, Check, Status};
use crate::lifecycle::gateway::{self, Health};
use crate::lifecycle::{self, Attempt, Network, Proof, Verdict};
use crate::ui::Row;

/// Exit code if an attempt gets out.
const GOT_OUT: u8 = 2;

/// Diagnose the host and suggest a fix for each problem
///
/// Exit codes: 0 no problems, 1 warnings, 2 problems. With --walls: 0 all attempts
/// blocked, 1 attempts without proof or an error, 2 an attempt got out.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels doctor"
    "pixels doctor --json"
    "pixels doctor --walls"
))]
pub struct DoctorArgs {
    /// Try to bypass the egress policy from a temporary pixel
    #[arg(long)]
    walls: bool,
}

impl Row for Check {
    const HEADERS: &'static [&'static str] = &["STATUS", "CHECK", "FOUND"];

    fn cells(&self) -> Vec<String> {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Skipped => "-",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
        };
        let mut found = self.detail.clone();
        if let Some(fix) = &self.fix {
            found.push_str("\n-> ");
            found.push_str(fix);
        }
        vec![status.into(), self.title.clone(), found]
    }
}

impl DoctorArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.walls {
            return test_walls(context).await;
        }
        let work = async {
            let incus = context.settings().backend == BackendKind::Incus;
            let mut checks = vec![match incus {
                true => check_gateway(context).await,
                false => check_connection(context).await,
            }];
            checks.extend(check_host_filter(context).await);
            checks.extend(check_orphans(context).await);
            match incus {
                true => host::doctor(&from_settings::host_options(context), checks).await,
                false => checks,
            }
        };
        let checks = context.interruptible(work).await?;
        context.ui.rows(&checks, "Nothing to check.");
        match host::exit_code(&checks) {
            0 => Ok(()),
            code => Err(ExitWith(code).into()),
        }
    }
}

impl Row for Attempt {
    const HEADERS: &'static [&'static str] = &["RESULT", "ATTEMPT", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let result = match self.result {
            Verdict::Blocked => "blocked",
            Verdict::GotOut => "GOT OUT",
            Verdict::Inconclusive => "inconclusive",
            Verdict::NotRun => "not run",
        };
        vec![result.into(), self.attempt.clone(), self.detail.clone()]
    }
}

/// Reports errors with the exit code 1: their own code may be 2, which means
/// here that an attempt got out.
async fn test_walls(context: &Context) -> anyhow::Result<()> {
    let proof = match prove(context).await {
        Err(error) if exit::classify(&error).0 != exit::INTERRUPTED => {
            error_report::report(&context.ui, &error, exit::FAILURE);
            return Err(ExitWith(exit::FAILURE).into());
        }
        outcome => outcome?,
    };
    context.ui.rows(&proof.attempts, "No attempts.");
    for leftover in &proof.leftovers {
        context.ui.warn(&format!("left behind: {leftover}"));
    }
    let count = |result| {
        let attempts = proof.attempts.iter();
        attempts.filter(|it| it.result == result).count()
    };
    let (blocked, got_out) = (count(Verdict::Blocked), count(Verdict::GotOut));
    let unproven = proof.attempts.len() - blocked - got_out;
    context.ui.status(&format!(
        "{} attempts: {blocked} blocked, {got_out} got out, {unproven} without proof",
        proof.attempts.len()
    ));
    match (got_out, unproven) {
        (0, 0) => Ok(()),
        (0, _) => Err(ExitWith(exit::FAILURE).into()),
        _ => Err(ExitWith(GOT_OUT).into()),
    }
}

async fn prove(context: &Context) -> anyhow::Result<Proof> {
    let backend = context.backend()?;
    let defaults = from_settings::instance_defaults(context, None)?;
    let image = from_settings::resolve_default_image(context, &defaults).await?;
    let spinner = context.ui.spinner();
    let progress = |phase: &str| spinner.step(phase);
    let proof = lifecycle::test_walls(backend, context.cancel(), &defaults, &image, &progress);
    Ok(proof.await?)
}

/// Checks that the TrueNAS server accepts the API key and runs containers.
async fn check_connection(context: &Context) -> Check {
    const ID: &str = "truenas";
    const TITLE: &str = "connection to TrueNAS";
    let pixels = match context.backend() {
        Ok(backend) => backend.list().await,
        Err(error) => Err(error),
    };
    match pixels {
        Ok(pixels) => Check::new(ID, TITLE, Status::Ok, format!("{} pixels", pixels.len())),
        Err(error) => Check::new(ID, TITLE, Status::Problem, error.to_string()),
    }
}

/// Checks that the gateway of the settings enforces all policies.
async fn check_gateway(context: &Context) -> Check {
    let check = |status, detail: String| Check::new("gateway", "egress gateway", status, detail);
    let health = match (
        context.backend(),
        from_settings::network_from_settings(context),
    ) {
        (Ok(backend), Ok(Network::Gateway(gateway_spec))) => {
            gateway::health(backend, &gateway_spec).await
        }
        (Ok(_), Ok(Network::External(_))) => {
            let detail = "not used: with these settings, each pixel enforces its own policy";
            return check(Status::Skipped, detail.into());
        }
        (Err(error), _) => Err(error),
        (_, Err(error)) => return check(Status::Problem, error.to_string()),
    };
    match health {
        Ok(health @ Health::Good { .. }) => check(Status::Ok, health.to_string()),
        Ok(health @ Health::Missing) => check(Status::Skipped, health.to_string()),
        Ok(health @ Health::Stopped) => check(Status::Problem, health.to_string())
            .fix("pixels start NAME, or create another pixel"),
        Ok(health) => {
            check(Status::Problem, health.to_string()).fix("pixels network gateway rebuild")
        }
        Err(error) => check(Status::Skipped, error.to_string()),
    }
}

/// Checks that the host filters the gateway's traffic. Empty without a running
/// gateway: the gateway check reports the reason.
async fn check_host_filter(context: &Context) -> Vec<Check> {
    let (Ok(backend), Ok(Network::Gateway(gateway_spec))) = (
        context.backend(),
        from_settings::network_from_settings(context),
    ) else {
        return Vec::new();
    };
    match gateway::host_filter(backend, &gateway_spec).await {
        Ok(Some(filter)) => {
            let options = from_settings::host_options(context);
            host::check_host_filter(&options, filter.as_ref()).await
        }
        _ => Vec::new(),
    }
}

/// Returns one check for each leftover of an interrupted command.
async fn check_orphans(context: &Context) -> Vec<Check> {
    const ID: &str = "leftovers";
    const TITLE: &str = "leftovers of interrupted commands";
    let orphans = match (
        context.backend(),
        from_settings::gateway_from_settings(context),
    ) {
        (Ok(backend), Ok(gateway_spec)) => lifecycle::find_orphans(backend, &gateway_spec).await,
        (Err(error), _) => Err(error),
        // The gateway check reports invalid settings.
        (_, Err(_)) => return Vec::new(),
    };
    match orphans {
        Ok(orphans) if orphans.is_empty() => vec![Check::new(ID, TITLE, Status::Ok, "none")],
        Ok(orphans) => orphans
            .into_iter()
            .map(|orphan| {
                Check::new(ID, TITLE, Status::Warning, orphan.to_string()).fix("pixels prune")
            })
            .collect(),
        Err(error) => vec![Check::new(ID, TITLE, Status::Skipped, error.to_string())],
    }
}
