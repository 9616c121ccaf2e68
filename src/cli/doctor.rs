//! `pixels doctor`

use clap::Args;

use super::{Context, from_settings, setup};
use crate::config::BackendKind;
use crate::exit::ExitWith;
use crate::host::{self, Check, Status};
use crate::lifecycle::gateway::{self, Health};
use crate::lifecycle::{self, Network};
use crate::ui::Row;

/// Look for what is wrong, and say what mends it
///
/// Exit code: 0 all well, 1 warnings, 2 problems.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

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
        let work = async {
            let mut extra = Vec::new();
            let incus = context.settings().backend == BackendKind::Incus;
            extra.extend(match incus {
                true => check_gateway(context).await,
                false => vec![check_connection(context).await],
            });
            extra.extend(check_orphans(context).await);
            Ok(match incus {
                true => host::doctor(&setup::options(context), extra).await,
                false => extra,
            })
        };
        let checks = context.unless_interrupted(work).await?;
        context.ui.rows(&checks, "Nothing to check.");
        match host::exit_code(&checks) {
            0 => Ok(()),
            code => Err(ExitWith(code).into()),
        }
    }
}

/// Whether a TrueNAS server lets us in and has a containers service.
async fn check_connection(context: &Context) -> Check {
    const ID: &str = "truenas";
    const TITLE: &str = "TrueNAS answers";
    let listed = match context.backend() {
        Ok(backend) => backend.list().await,
        Err(error) => Err(error),
    };
    match listed {
        Ok(pixels) => Check::new(ID, TITLE, Status::Ok, format!("{} pixels", pixels.len())),
        Err(error) => Check::new(ID, TITLE, Status::Problem, error.to_string()),
    }
}

/// Whether the gateway of the settings does its part, where there is one.
async fn check_gateway(context: &Context) -> Vec<Check> {
    const ID: &str = "gateway";
    const TITLE: &str = "gateway of the pixels";
    let found = |status, detail: String| Check::new(ID, TITLE, status, detail);
    let health = match (
        context.backend(),
        from_settings::network_from_settings(context),
    ) {
        (Ok(backend), Ok(Network::Gateway(gateway_spec))) => {
            gateway::health(backend, &gateway_spec).await
        }
        (Ok(_), Ok(Network::External(_))) => {
            return vec![found(
                Status::Skipped,
                "the settings put pixels on a network without one, where each enforces its own policy"
                    .into(),
            )];
        }
        (Err(error), _) => Err(error),
        (_, Err(error)) => return vec![found(Status::Problem, error.to_string())],
    };
    vec![match health {
        Ok(health @ Health::Good { .. }) => found(Status::Ok, health.to_string()),
        Ok(health @ Health::Missing) => found(Status::Skipped, health.to_string()),
        Ok(health @ Health::Stopped) => {
            found(Status::Problem, health.to_string()).fix("pixels start NAME, or create another")
        }
        Ok(health) => {
            found(Status::Problem, health.to_string()).fix("pixels network gateway rebuild")
        }
        Err(error) => found(Status::Skipped, error.to_string()),
    }]
}

/// What killed commands left on the server, one check each.
async fn check_orphans(context: &Context) -> Vec<Check> {
    const ID: &str = "leftovers";
    const TITLE: &str = "nothing half-made is left";
    let found = match (
        context.backend(),
        from_settings::gateway_from_settings(context),
    ) {
        (Ok(backend), Ok(gateway_spec)) => lifecycle::find_orphans(backend, &gateway_spec).await,
        (Err(error), _) => Err(error),
        // Said by the check of the gateway.
        (_, Err(_)) => return Vec::new(),
    };
    match found {
        Ok(found) if found.is_empty() => vec![Check::new(ID, TITLE, Status::Ok, "nothing found")],
        Ok(found) => found
            .into_iter()
            .map(|one| Check::new(ID, TITLE, Status::Warning, one.to_string()).fix("pixels prune"))
            .collect(),
        Err(error) => vec![Check::new(ID, TITLE, Status::Skipped, error.to_string())],
    }
}
