//! `pixels doctor`

use clap::Args;

use super::{Context, setup};
use crate::config::BackendKind;
use crate::exit::Silent;
use crate::host::{self, Check, Status};
use crate::lifecycle;
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
            let leftovers = leftovers(context).await;
            Ok(match context.settings().backend {
                BackendKind::Incus => host::doctor(&setup::options(context), leftovers).await,
                BackendKind::TrueNas => [vec![answers(context).await], leftovers].concat(),
            })
        };
        let checks = context.unless_interrupted(work).await?;
        context.ui.rows(&checks, "Nothing to check.");
        match host::exit_code(&checks) {
            0 => Ok(()),
            code => Err(Silent(code).into()),
        }
    }
}

/// Whether a TrueNAS server lets us in and has a containers service.
async fn answers(context: &Context) -> Check {
    const ID: &str = "truenas";
    const TITLE: &str = "TrueNAS answers";
    let listed = match context.sandbox() {
        Ok(sandbox) => sandbox.list().await,
        Err(error) => Err(error),
    };
    match listed {
        Ok(pixels) => Check::new(ID, TITLE, Status::Ok, format!("{} pixels", pixels.len())),
        Err(error) => Check::new(ID, TITLE, Status::Problem, error.to_string()),
    }
}

/// What killed commands left on the server, one check each.
async fn leftovers(context: &Context) -> Vec<Check> {
    const ID: &str = "leftovers";
    const TITLE: &str = "nothing half-made is left";
    let found = match context.sandbox() {
        Ok(sandbox) => lifecycle::find_leftovers(sandbox).await,
        Err(error) => Err(error),
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
