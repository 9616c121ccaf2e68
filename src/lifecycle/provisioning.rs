//! Provisioning of a pixel on the server: applied, watched, repeated. What is
//! known of it stands in the pixel's properties, so that a listing can tell
//! without asking every pixel.

use std::time::Duration;

use crate::model::{Backend, Guest, Instance, Name, Properties, Result};
use crate::provision::{self, Overall, Plan, Report};

use super::creator::Creator;
use super::policy::Enforcer;
use super::user;

const KEY: &str = "provision";
/// The command that puts the plan in. The pixel is not finished before it is
/// gone; a clone inherits the key, but not the claim of that command.
const APPLYING: &str = "applying";
/// So many looks in a row make a step that ended without a word a failed one.
const CERTAIN: u32 = 4;
const POLL: Duration = Duration::from_millis(500);

/// The properties of a pixel that `claim` is about to provision.
pub(super) fn announce(creator: &Creator, properties: &mut Properties) {
    properties.insert(APPLYING.into(), creator.unique());
    properties.insert(user::KEY.into(), provision::USER.into());
}

/// The creation by `claim` was cut off after the first start.
pub(super) fn was_interrupted(instance: &Instance, creator: &Creator) -> bool {
    instance.properties.get(APPLYING) == Some(&creator.unique())
}

/// What the server has on record; `None` for a pixel never provisioned.
pub fn recorded(instance: &Instance) -> Option<&str> {
    instance.properties.get(KEY).map(String::as_str)
}

/// Writes what was observed into our own copy of the record.
pub fn record(instance: &mut Instance, report: &Report) {
    let state = report.overall.as_str();
    instance.properties.insert(KEY.into(), state.into());
}

/// Whether the record may be out of date by now.
pub fn is_unfinished(instance: &Instance) -> bool {
    recorded(instance).is_some_and(|state| state == Overall::Running.as_str())
}

/// Puts the plan into a running pixel, starts its steps and says so on record.
pub async fn apply(backend: &dyn Backend, name: &Name, plan: &Plan) -> Result<()> {
    let mut plan = plan.clone();
    if Enforcer::of_instance(&backend.get(name).await?) == Enforcer::Pixel {
        plan.leave_sudo();
    }
    provision::apply(&*backend.guest(name), &plan).await?;
    let properties = [
        (user::KEY, provision::USER),
        (KEY, Overall::Running.as_str()),
        (APPLYING, ""),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    backend.set_properties(name, &properties.into()).await
}

/// How far the steps are; keeps the record up to date.
pub async fn observe(backend: &dyn Backend, instance: &Instance) -> Result<Report> {
    let report = provision::status(&*backend.guest(&instance.name)).await?;
    let state = report.overall.as_str();
    if report.overall != Overall::None && recorded(instance) != Some(state) {
        let properties = Properties::from([(KEY.to_owned(), state.to_owned())]);
        backend.set_properties(&instance.name, &properties).await?;
    }
    Ok(report)
}

/// Observes until no step is left to run; `seen` is told every look.
pub async fn wait(
    backend: &dyn Backend,
    name: &Name,
    seen: &(dyn Fn(&Report) + Sync),
) -> Result<Report> {
    let mut doubts = 0;
    loop {
        let instance = backend.get(name).await?;
        let report = observe(backend, &instance).await?;
        seen(&report);
        // Between two units a step may look as if nothing worked on it.
        let certain = report.failed().is_none_or(|step| step.exit_code.is_some());
        doubts = if certain { 0 } else { doubts + 1 };
        if report.overall != Overall::Running && (certain || doubts == CERTAIN) {
            return Ok(report);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Streams the output of all steps until there is no more to come.
pub async fn follow(
    guest: &dyn Guest,
    to: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
) -> Result<()> {
    provision::follow(guest, to).await
}
