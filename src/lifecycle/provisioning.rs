//! Provisioning of a pixel on the server: applied, watched, repeated. What is
//! known of it stands in the pixel's properties, so that a listing can tell
//! without asking every pixel.

use std::time::Duration;

use crate::provision::{self, Overall, Plan, Report};
use crate::sandbox::{Guest, Instance, Name, Properties, Result, Sandbox};

use super::login;

const KEY: &str = "provision";
/// Being put in; the pixel is not finished before that is over.
const APPLYING: &str = "applying";
const POLL: Duration = Duration::from_millis(500);

/// The properties of a pixel that is about to be provisioned.
pub(super) fn announce(properties: &mut Properties) {
    properties.insert(KEY.into(), APPLYING.into());
    properties.insert(login::KEY.into(), provision::USER.into());
}

/// The creation was cut off after the first start.
pub(super) fn cut_off(instance: &Instance) -> bool {
    instance.properties.get(KEY).is_some_and(|v| v == APPLYING)
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
pub fn unsettled(instance: &Instance) -> bool {
    recorded(instance).is_some_and(|state| state == Overall::Running.as_str())
}

/// Puts the plan into a running pixel, starts its steps and says so on record.
pub async fn apply(sandbox: &dyn Sandbox, name: &Name, plan: &Plan) -> Result<()> {
    provision::apply(&*sandbox.guest(name), plan).await?;
    let mut properties = Properties::new();
    announce(&mut properties);
    properties.insert(KEY.into(), Overall::Running.as_str().into());
    sandbox.set_properties(name, &properties).await
}

/// How far the steps are; keeps the record up to date.
pub async fn observe(sandbox: &dyn Sandbox, instance: &Instance) -> Result<Report> {
    let report = provision::status(&*sandbox.guest(&instance.name)).await?;
    let state = report.overall.as_str();
    if report.overall != Overall::None && recorded(instance) != Some(state) {
        let properties = Properties::from([(KEY.to_owned(), state.to_owned())]);
        sandbox.set_properties(&instance.name, &properties).await?;
    }
    Ok(report)
}

/// Observes until no step is left to run; `seen` is told every look.
pub async fn wait(
    sandbox: &dyn Sandbox,
    name: &Name,
    seen: &(dyn Fn(&Report) + Sync),
) -> Result<Report> {
    loop {
        let instance = sandbox.get(name).await?;
        let report = observe(sandbox, &instance).await?;
        seen(&report);
        if report.overall != Overall::Running {
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
