//! Changes of state: start, stop, delete. What was lost on the way is asked
//! for: a change whose goal is reached counts as done.

use std::time::Duration;

use serde_json::{Value, json};

use super::convert::Found;
use super::error::Failure;
use super::job::{self, JobCall};
use super::properties::PropertyKey;
use super::{Truenas, container_api};
use crate::model::{Error, Name, Result, Status, Subject};
use crate::retry::{self, Next};

const STATE: Duration = Duration::from_secs(120);
/// The server itself gives up a stop after five minutes.
const LONGEST_GRACE: Duration = Duration::from_secs(240);
/// A disk may be busy just after a stop.
const BUSY: Duration = Duration::from_secs(20);

impl Truenas {
    pub(super) async fn run_state(
        &self,
        name: &Name,
        method: &'static str,
        params: Value,
        doing: &str,
        limit: Duration,
    ) -> Result<(), Failure> {
        let task = JobCall {
            method,
            params,
            doing,
            limit,
        };
        let outcome = job::run(&self.rpc, &task).await.map(drop);
        self.ssh.forget_session(&name.instance()).await;
        outcome
    }

    /// Starts the instance and nothing more.
    pub(super) async fn start(&self, name: &Name) -> Result<()> {
        let found = self.find(name).await?;
        if found.status() == Status::Running {
            return Ok(());
        }
        let outcome = match &found {
            Found::Virt(_) => {
                let params = json!([name.instance()]);
                let doing = "starting the pixel";
                self.run_state(name, "virt.instance.start", params, doing, STATE)
                    .await
            }
            Found::Lxc(lxc) => container_api::start(&self.rpc, lxc).await,
        };
        self.ok_if_in_state(name, outcome, Status::Running).await
    }

    pub(super) async fn stop(&self, name: &Name, grace: Duration) -> Result<()> {
        let found = self.find(name).await?;
        if found.status() == Status::Stopped {
            return Ok(());
        }
        let grace = grace.min(LONGEST_GRACE);
        let outcome = match &found {
            Found::Virt(_) => {
                let ask = async |how: Value, limit| {
                    let params = json!([name.instance(), how]);
                    let doing = "stopping the pixel";
                    self.run_state(name, "virt.instance.stop", params, doing, limit)
                        .await
                };
                let force = json!({"force": true});
                if grace.is_zero() {
                    ask(force, STATE).await
                } else {
                    let gentle = json!({"timeout": grace.as_secs(), "force": false});
                    match ask(gentle, grace + STATE).await {
                        Err(Failure::Refused(fault)) => {
                            tracing::debug!(%fault, "graceful stop failed, forcing");
                            ask(force, STATE).await
                        }
                        other => other,
                    }
                }
            }
            Found::Lxc(lxc) => container_api::stop(&self.rpc, lxc, grace.is_zero()).await,
        };
        self.ok_if_in_state(name, outcome, Status::Stopped).await
    }

    /// A change that failed, or of which nothing was heard, but whose goal is
    /// reached all the same, counts as done.
    async fn ok_if_in_state(
        &self,
        name: &Name,
        outcome: Result<(), Failure>,
        goal: Status,
    ) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_uncertain() || matches!(failure, Failure::Refused(_)) => {
                match self.find(name).await {
                    Ok(found) if found.status() == goal => Ok(()),
                    Err(error) if error.is_not_found() => Err(error),
                    _ => Err(failure.into_error_for(Subject::pixel(name))),
                }
            }
            Err(failure) => Err(failure.into_error_for(Subject::pixel(name))),
        }
    }

    pub(super) async fn destroy(&self, name: &Name) -> Result<()> {
        let id = match self.find(name).await? {
            Found::Virt(virt) => PropertyKey::Id
                .read_properties(&virt.environment)
                .map(str::to_owned),
            Found::Lxc(lxc) => {
                self.stop(name, Duration::ZERO).await?;
                return container_api::delete(&self.rpc, &lxc)
                    .await
                    .map_err(|failure| failure.into_error_for(Subject::pixel(name)));
            }
        };
        retry::until(BUSY, || async {
            if let Err(error) = self.stop(name, Duration::ZERO).await {
                return Next::Done(self.is_gone(name, error).await);
            }
            let params = json!([name.instance()]);
            let method = "virt.instance.delete";
            let doing = "deleting the pixel";
            match self.run_state(name, method, params, doing, STATE).await {
                Ok(()) => Next::Done(Ok(())),
                Err(failure @ Failure::Refused(_)) if !failure.is_not_found() => {
                    Next::Again(failure)
                }
                Err(failure) => {
                    let error = failure.into_error_for(Subject::pixel(name));
                    Next::Done(self.is_gone(name, error).await)
                }
            }
        })
        .await
        .unwrap_or_else(|failure| Err(failure.into_error_for(Subject::pixel(name))))?;
        if let Some(id) = id {
            self.ssh.forget_host(&name.instance(), &id);
        }
        Ok(())
    }

    /// What failed on a pixel that was there a moment ago, and is not any more.
    async fn is_gone(&self, name: &Name, error: Error) -> Result<()> {
        match self.find(name).await {
            Err(missing) if missing.is_not_found() => Ok(()),
            _ => Err(error),
        }
    }
}
