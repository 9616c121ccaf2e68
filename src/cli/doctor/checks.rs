//! The checks of the backend, the gateway and the host.

use crate::cli::{Context, from_settings};
use crate::config::BackendKind;
use crate::exit::ExitWith;
use crate::host::{self, Check, Status};
use crate::lifecycle::gateway::{self, Health};
use crate::lifecycle::{self, Network};
use crate::ui::Row;

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

pub async fn run(context: &Context) -> anyhow::Result<()> {
    let checks = context.interruptible(all_checks(context)).await?;
    context.ui.rows(&checks, "Nothing to check.");
    match host::exit_code(&checks) {
        0 => Ok(()),
        code => Err(ExitWith(code).into()),
    }
}

/// Runs all checks that apply to the backend of the settings.
async fn all_checks(context: &Context) -> Vec<Check> {
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
