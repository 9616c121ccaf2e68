//! Provisioning of a pixel on a server: apply a plan, read the state of its
//! steps and wait for them. A property records the state, so that a listing
//! needs no request to each pixel.

use std::time::Duration;

use crate::model::{Backend, Instance, Name, Properties, Result, UserGuest};
use crate::provision::{self, Overall, Plan, Report};

use super::creator::Creator;
use super::policy::Enforcer;
use super::user::{self, User};

/// The property with the state: [`Overall::as_str`].
const KEY: &str = "provision";
/// The property with the id of the command that applies the plan. The creation
/// of the pixel is incomplete until the property is removed. In a clone, the
/// inherited id differs from the creator's id.
pub(super) const APPLYING: &str = "applying";
/// Number of consecutive reports after which a step without exit code counts as
/// failed.
const MIN_FAILED_REPORTS: u32 = 4;
const POLL: Duration = Duration::from_millis(500);

/// Adds the properties of a pixel that `creator` is going to provision.
pub(super) fn insert_applying(creator: &Creator, properties: &mut Properties) {
    properties.insert(APPLYING.into(), creator.id());
    properties.insert(user::KEY.into(), provision::USER.into());
}

/// Whether `creator` has not finished applying the plan.
pub(super) fn is_applying(instance: &Instance, creator: &Creator) -> bool {
    instance.properties.get(APPLYING) == Some(&creator.id())
}

/// The recorded state; `None` for a pixel that was never provisioned.
pub fn recorded_state(instance: &Instance) -> Option<&str> {
    instance.properties.get(KEY).map(String::as_str)
}

/// Sets the recorded state in `instance`, but not on the server.
pub fn set_recorded_state(instance: &mut Instance, report: &Report) {
    let state = report.overall.as_str();
    instance.properties.insert(KEY.into(), state.into());
}

/// Whether the recorded state is that of running steps.
pub fn is_unfinished(instance: &Instance) -> bool {
    recorded_state(instance) == Some(Overall::Running.as_str())
}

/// Applies a plan to a running pixel, starts its steps and records the state.
/// Does not wait for the steps.
pub async fn apply(backend: &dyn Backend, name: &Name, plan: &Plan) -> Result<()> {
    let mut plan = plan.clone();
    if Enforcer::of_instance(&backend.get(name).await?) == Enforcer::Pixel {
        plan.remove_sudo();
    }
    let user_guest = UserGuest::new(backend.guest(name), User::expected(true).ids);
    provision::apply(&*backend.guest(name), &user_guest, &plan).await?;
    let properties = [
        (user::KEY, provision::USER),
        (KEY, Overall::Running.as_str()),
        (APPLYING, ""),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    backend.set_properties(name, &properties.into()).await
}

/// Reads the state of the steps from a running pixel. Records a changed state.
pub async fn observe(backend: &dyn Backend, instance: &Instance) -> Result<Report> {
    let report = provision::status(&*backend.guest(&instance.name)).await?;
    let state = report.overall.as_str();
    if report.overall != Overall::None && recorded_state(instance) != Some(state) {
        let properties = Properties::from([(KEY.to_owned(), state.to_owned())]);
        backend.set_properties(&instance.name, &properties).await?;
    }
    Ok(report)
}

/// Waits until no step is running or pending. Calls `on_report` repeatedly.
pub async fn wait(
    backend: &dyn Backend,
    name: &Name,
    on_report: &(dyn Fn(&Report) + Sync),
) -> Result<Report> {
    let mut failed_reports = 0;
    loop {
        let instance = backend.get(name).await?;
        let report = observe(backend, &instance).await?;
        on_report(&report);
        // Between two units, a step may seem to have no running unit.
        let is_certain = report.failed().is_none_or(|step| step.exit_code.is_some());
        failed_reports = if is_certain { 0 } else { failed_reports + 1 };
        if report.overall != Overall::Running
            && (is_certain || failed_reports == MIN_FAILED_REPORTS)
        {
            return Ok(report);
        }
        tokio::time::sleep(POLL).await;
    }
}
