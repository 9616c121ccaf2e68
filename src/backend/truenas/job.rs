//! Jobs: long operations, for which the server immediately returns a number. An
//! event reports the end of a job. Jobs are also polled, because a lost
//! connection also loses events.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::Failure;
use super::fault::RpcFault;
use super::job_events::{GET_JOBS, Job};
use super::rpc::Rpc;

/// How long to wait for an event before polling the job.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Placeholder that the server returns instead of a secret.
const MASKED: &str = "********";

/// A call of a method that starts a job.
pub(super) struct JobCall<'a> {
    pub method: &'static str,
    pub params: Value,
    /// Description for messages, such as "starting the pixel".
    pub doing: &'a str,
    pub limit: Duration,
}

/// Submits a job, waits until the job ends and returns the result. Looks up the
/// job by call id or unique arguments if the connection is lost during the
/// submission. Fails with `Error::TimedOut` after `limit`, while the job
/// continues on the server.
pub(super) async fn run(rpc: &Rpc, call: &JobCall<'_>) -> Result<Value, Failure> {
    let work = async {
        loop {
            let call_id = rpc.id();
            // The response is the job's number.
            let id = match rpc.send(call.method, &call_id, &call.params, true).await {
                Ok(id) => id,
                Err(failure @ Failure::Lost(_)) => find(rpc, call, &call_id, failure).await?,
                Err(failure) => return Err(failure),
            };
            let job = wait(rpc, id, call).await?;
            // The server returns the number of the last job in the queue if the queue is
            // full.
            if is_job_of(&job, call, &call_id) {
                return outcome(job);
            }
            tracing::debug!(call.method, "the queue was full");
        }
    };
    tokio::time::timeout(call.limit, work)
        .await
        .unwrap_or_else(|_| Err(Failure::timed_out(call.doing, call.limit)))
}

/// Whether a job executes the call. A job that another client submitted with
/// the same arguments counts too.
fn is_job_of(job: &Job, call: &JobCall<'_>, call_id: &str) -> bool {
    job.message_ids.iter().any(|id| id == call_id)
        || job.method == call.method && includes(&job.arguments, &call.params)
}

/// Whether the reported arguments are the sent arguments. The server may add
/// defaults, and masks secrets.
fn includes(shown: &Value, sent: &Value) -> bool {
    match (shown, sent) {
        (Value::Object(shown), Value::Object(sent)) => sent
            .iter()
            .all(|(key, value)| shown.get(key).is_some_and(|shown| includes(shown, value))),
        (Value::Array(shown), Value::Array(sent)) => {
            shown.len() >= sent.len()
                && shown
                    .iter()
                    .zip(sent)
                    .all(|(shown, sent)| includes(shown, sent))
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

/// Looks up the job of a call with a lost response. Fails with `lost` if not found.
async fn find(rpc: &Rpc, call: &JobCall<'_>, call_id: &str, lost: Failure) -> Result<i64, Failure> {
    let params = json!([[["method", "=", call.method]], {"order_by": ["-id"], "limit": 50}]);
    let jobs: Vec<Job> = rpc.read(GET_JOBS, params).await?;
    let by_id = |job: &&Job| job.message_ids.iter().any(|id| id == call_id);
    // 25.04 does not report call ids, so compare unique arguments.
    let by_params = |job: &&Job| is_unique(&call.params) && includes(&job.arguments, &call.params);
    jobs.iter()
        .find(by_id)
        .or_else(|| jobs.iter().find(by_params))
        .map(|job| job.id)
        .ok_or(lost)
}

/// Whether the arguments identify a call. The environment of a new instance
/// contains a unique id.
fn is_unique(params: &Value) -> bool {
    params[0].get("environment").is_some_and(Value::is_object)
}

async fn wait(rpc: &Rpc, id: i64, call: &JobCall<'_>) -> Result<Job, Failure> {
    loop {
        let session = rpc.session().await?;
        let connection = &session.connection;
        let end = connection
            .jobs()
            .wait_for_end(id, || connection.is_closed());
        if let Ok(Some(job)) = tokio::time::timeout(POLL_INTERVAL, end).await {
            return Ok(job);
        }
        let params = json!([[["id", "=", id]], {"extra": {"raw_result": true}}]);
        let jobs: Vec<Job> = rpc.read(GET_JOBS, params).await?;
        match jobs.into_iter().next() {
            Some(job) if job.is_over() => return Ok(job),
            Some(_) => {}
            None => {
                let reason = "the server no longer has the job";
                return Err(Failure::lost(rpc.endpoint(), call.method, reason));
            }
        }
    }
}

/// Whether a job is changing this instance, or this cron job is running.
pub(super) async fn is_in_progress(
    rpc: &Rpc,
    instance: &str,
    cron_job: Option<i64>,
) -> Result<bool, Failure> {
    let params = json!([[["state", "in", ["WAITING", "RUNNING"]]]]);
    let jobs: Vec<Job> = rpc.read(GET_JOBS, params).await?;
    let cron_job = cron_job.map(|id| id.to_string());
    Ok(jobs.iter().any(|job| {
        let target = job.target();
        target.as_deref() == Some(instance)
            || job.method == "cronjob.run" && cron_job.is_some() && target == cron_job
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_other_calls_do_not_match() {
        let sent = json!(["px-a", {"environment": {"a": "b"}}]);
        let call = JobCall {
            method: "virt.instance.update",
            params: sent.clone(),
            doing: "",
            limit: POLL_INTERVAL,
        };
        let matches = |method: &str, arguments: Value, call_id: &str| {
            let job = json!({"id": 1, "method": method, "arguments": arguments,
                "state": "SUCCESS", "message_ids": [call_id]});
            is_job_of(&serde_json::from_value(job).unwrap(), &call, "own")
        };
        assert!(matches(call.method, json!([]), "own"));
        assert!(matches(call.method, sent.clone(), "other"));
        let more = json!(["px-a", {"environment": {"a": "********"}, "cpu": null}]);
        assert!(matches(call.method, more, ""));
        assert!(!matches(
            call.method,
            json!(["px-a", {"environment": {"a": "c"}}]),
            ""
        ));
        assert!(!matches(call.method, json!(["px-a", {"cpu": "1"}]), ""));
        assert!(!matches(call.method, json!(["px-a"]), ""));
        assert!(!matches("virt.instance.stop", sent, ""));
    }

    #[test]
    fn only_create_arguments_are_unique() {
        assert!(is_unique(
            &json!([{"name": "px-a", "environment": {"a": "b"}}])
        ));
        assert!(!is_unique(&json!(["px-a", {"force": true}])));
    }
}
