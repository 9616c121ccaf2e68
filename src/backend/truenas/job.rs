//! Jobs: what takes the server longer is answered with a number at once, and
//! its end is told by an event. Events are lost with their connection, so the
//! server is also asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::error::{ExcInfo, Failure, RpcFault};
use super::rpc::{Rpc, Session};

/// How often a job is asked for that no event has told of.
const POLL: Duration = Duration::from_secs(3);
/// So many jobs are remembered; others on the server make jobs too.
const REMEMBERED: usize = 256;
/// News of a job that are longer are not kept: it is asked for instead.
const LONGEST_NEWS: usize = 256 * 1024;
const GET: &str = "core.get_jobs";
/// In place of a secret.
const MASKED: &str = "********";

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Job {
    pub id: i64,
    pub method: String,
    #[serde(default)]
    pub arguments: Value,
    pub state: String,
    #[serde(default)]
    message_ids: Vec<Value>,
    error: Option<String>,
    exc_info: Option<ExcInfo>,
    #[serde(default)]
    result: Value,
}

impl Job {
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "SUCCESS" | "FAILED" | "ABORTED")
    }

    /// What it works on: the name of an instance, or a number.
    pub fn target(&self) -> Option<String> {
        target(&self.arguments)
    }
}

fn target(arguments: &Value) -> Option<String> {
    let first = arguments.get(0)?;
    match first.get("name").unwrap_or(first) {
        Value::String(name) => Some(name.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// The latest news of jobs on one connection. An event may come before the
/// answer that tells the job's number.
#[derive(Debug, Default)]
pub(super) struct JobTracker {
    seen: Mutex<BTreeMap<i64, Job>>,
    news: Notify,
}

#[derive(Deserialize)]
struct Update {
    collection: String,
    fields: Option<Job>,
}

#[derive(Deserialize)]
struct JobState {
    collection: String,
}

impl JobTracker {
    /// Takes the parameters of a `collection_update`.
    pub fn note(&self, params: &str) {
        if params.len() > LONGEST_NEWS {
            tracing::debug!(length = params.len(), "an event that is too long");
            return;
        }
        let about = serde_json::from_str::<JobState>(params);
        if !about.is_ok_and(|headline| headline.collection == GET) {
            return;
        }
        match serde_json::from_str::<Update>(params) {
            Ok(Update {
                fields: Some(job), ..
            }) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                // Late news of a job that is over say nothing new.
                if !seen.get(&job.id).is_some_and(Job::is_over) {
                    seen.insert(job.id, job);
                }
                while seen.len() > REMEMBERED {
                    seen.pop_first();
                }
            }
            Ok(update) => tracing::debug!(update.collection, "an event without fields"),
            Err(error) => tracing::debug!(%error, "an event that cannot be read"),
        }
        self.wake();
    }

    pub fn wake(&self) {
        self.news.notify_waiters();
    }

    fn get(&self, id: i64) -> Option<Job> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&id).cloned()
    }
}

/// A method that is a job.
pub(super) struct JobCall<'a> {
    pub method: &'static str,
    pub params: Value,
    /// For messages, such as "starting the pixel".
    pub doing: &'a str,
    pub limit: Duration,
}

/// Submits a job and waits for its end; its result. A job whose submission
/// was lost is found again where the server tells which is ours.
pub(super) async fn run(rpc: &Rpc, task: &JobCall<'_>) -> Result<Value, Failure> {
    let work = async {
        loop {
            let call = rpc.id();
            let id = match rpc.submit(task.method, &call, &task.params).await {
                Ok(id) => id,
                Err(failure @ Failure::Lost { .. }) => find(rpc, task, &call, failure).await?,
                Err(failure) => return Err(failure),
            };
            let job = wait(rpc, id, task).await?;
            // A full queue is answered with the number of the last job in it.
            if is_ours(&job, task, &call) {
                return outcome(job);
            }
            tracing::debug!(task.method, "the queue was full");
        }
    };
    tokio::time::timeout(task.limit, work)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                doing: task.doing.to_owned(),
                after: task.limit,
            })
        })
}

/// Whether a job does what this call asked for. Where the server tells what
/// call a job came of, somebody else's job may still be one for the same.
fn is_ours(job: &Job, task: &JobCall<'_>, call: &str) -> bool {
    job.message_ids.iter().any(|id| id == call)
        || job.method == task.method && carries(&job.arguments, &task.params)
}

/// Whether what the server shows of a job's arguments is what was sent. It may
/// have added what was left out, and does not show what is secret.
fn carries(shown: &Value, sent: &Value) -> bool {
    match (shown, sent) {
        (Value::Object(shown), Value::Object(sent)) => sent
            .iter()
            .all(|(key, value)| shown.get(key).is_some_and(|shown| carries(shown, value))),
        (Value::Array(shown), Value::Array(sent)) => {
            shown.len() >= sent.len()
                && shown
                    .iter()
                    .zip(sent)
                    .all(|(shown, sent)| carries(shown, sent))
        }
        (Value::String(shown), _) if shown == MASKED => true,
        _ => shown == sent,
    }
}

fn outcome(job: Job) -> Result<Value, Failure> {
    match job.state.as_str() {
        "SUCCESS" => Ok(job.result),
        "ABORTED" => Err(Failure::Refused(RpcFault {
            reason: "the job was aborted on the server".into(),
            ..RpcFault::default()
        })),
        _ => Err(Failure::Refused(RpcFault::from_job(
            job.error.as_deref(),
            job.exc_info,
        ))),
    }
}

/// The job of a call whose answer was lost; `lost` when there is none.
async fn find(rpc: &Rpc, task: &JobCall<'_>, call: &str, lost: Failure) -> Result<i64, Failure> {
    let params = json!([[["method", "=", task.method]], {"order_by": ["-id"], "limit": 50}]);
    let all: Vec<Job> = rpc.read(GET, params).await?;
    let named = |job: &&Job| job.message_ids.iter().any(|id| id == call);
    // 25.04 does not tell calls; arguments that only one call has do as well.
    let same = |job: &&Job| is_unique(&task.params) && carries(&job.arguments, &task.params);
    all.iter()
        .find(named)
        .or_else(|| all.iter().find(same))
        .map(|job| job.id)
        .ok_or(lost)
}

/// A creation carries its maker's claim.
fn is_unique(params: &Value) -> bool {
    params[0].get("environment").is_some_and(Value::is_object)
}

async fn wait(rpc: &Rpc, id: i64, task: &JobCall<'_>) -> Result<Job, Failure> {
    loop {
        let open = rpc.open().await?;
        if let Some(job) = told(&open, id).await {
            return Ok(job);
        }
        let params = json!([[["id", "=", id]], {"extra": {"raw_result": true}}]);
        let found: Vec<Job> = rpc.read(GET, params).await?;
        match found.into_iter().next() {
            Some(job) if job.is_over() => return Ok(job),
            Some(_) => {}
            None => {
                return Err(Failure::Lost {
                    endpoint: rpc.endpoint().to_owned(),
                    method: task.method,
                    reason: "the server no longer knows the job".into(),
                });
            }
        }
    }
}

/// What events tell of the job's end, within [`POLL`] and as long as the
/// connection is there.
async fn told(open: &Arc<Session>, id: i64) -> Option<Job> {
    let board = open.connection.jobs();
    let watching = async {
        loop {
            let news = board.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(job) = board.get(id).filter(Job::is_over) {
                return Some(job);
            }
            if open.connection.is_closed() {
                return None;
            }
            news.await;
        }
    };
    tokio::time::timeout(POLL, watching).await.unwrap_or(None)
}

/// Whether a job works on this instance, or the cron job of this number runs.
pub(super) async fn under_way(
    rpc: &Rpc,
    instance: &str,
    cron: Option<i64>,
) -> Result<bool, Failure> {
    let params = json!([[["state", "in", ["WAITING", "RUNNING"]]]]);
    let all: Vec<Job> = rpc.read(GET, params).await?;
    let cron = cron.map(|id| id.to_string());
    Ok(all.iter().any(|job| {
        let target = job.target();
        target.as_deref() == Some(instance)
            || job.method == "cronjob.run" && cron.is_some() && target == cron
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: i64, state: &str) -> String {
        json!({"msg": "changed", "collection": GET, "id": id, "fields": {
            "id": id, "method": "virt.instance.start", "arguments": ["px-a"], "state": state,
            "error": null, "exc_info": null, "result": true}})
        .to_string()
    }

    #[test]
    fn an_end_stays_an_end_and_old_news_make_room() {
        let board = JobTracker::default();
        board.note(&event(1, "RUNNING"));
        assert!(!board.get(1).unwrap().is_over());
        board.note(&event(1, "SUCCESS"));
        board.note(&event(1, "RUNNING"));
        assert!(board.get(1).unwrap().is_over());
        assert_eq!(board.get(1).unwrap().target().as_deref(), Some("px-a"));
        for id in 2..=i64::try_from(REMEMBERED).unwrap() + 1 {
            board.note(&event(id, "WAITING"));
        }
        assert!(board.get(1).is_none() && board.get(2).is_some());
        board.note(r#"{"msg": "changed", "collection": "interface.query", "fields": {"id": "x"}}"#);
        board.note("nonsense");
        let long = event(999, &"x".repeat(LONGEST_NEWS));
        board.note(&long);
        assert!(board.get(999).is_none());
        board.note(&event(999, "SUCCESS"));
        assert!(board.get(999).is_some());
    }

    #[test]
    fn the_work_of_others_is_not_taken_for_ours() {
        let sent = json!(["px-a", {"environment": {"a": "b"}}]);
        let task = JobCall {
            method: "virt.instance.update",
            params: sent.clone(),
            doing: "",
            limit: POLL,
        };
        let job = |method: &str, arguments: Value, call: &str| {
            let job = json!({"id": 1, "method": method, "arguments": arguments,
                "state": "SUCCESS", "message_ids": [call]});
            is_ours(&serde_json::from_value(job).unwrap(), &task, "ours")
        };
        assert!(job(task.method, json!([]), "ours"));
        assert!(job(task.method, sent.clone(), "theirs"));
        let more = json!(["px-a", {"environment": {"a": "********"}, "cpu": null}]);
        assert!(job(task.method, more, ""));
        assert!(!job(
            task.method,
            json!(["px-a", {"environment": {"a": "c"}}]),
            ""
        ));
        assert!(!job(task.method, json!(["px-a", {"cpu": "1"}]), ""));
        assert!(!job(task.method, json!(["px-a"]), ""));
        assert!(!job("virt.instance.stop", sent, ""));
    }

    #[test]
    fn only_a_creation_is_known_by_its_arguments() {
        assert!(is_unique(
            &json!([{"name": "px-a", "environment": {"a": "b"}}])
        ));
        assert!(!is_unique(&json!(["px-a", {"force": true}])));
    }
}
