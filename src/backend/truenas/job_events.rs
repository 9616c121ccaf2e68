//! Jobs reported by the server, and the job events of one connection.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::fault::ExcInfo;

pub(super) const GET_JOBS: &str = "core.get_jobs";
/// Maximum number of jobs per connection, including other clients' jobs.
const MAX_JOBS: usize = 256;
/// Maximum size of an event in bytes. For a larger event, the job is polled.
const MAX_EVENT: usize = 256 * 1024;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Job {
    pub id: i64,
    pub method: String,
    #[serde(default)]
    pub arguments: Value,
    pub state: String,
    /// The ids of the calls that submitted the job. Always empty on 25.04.
    #[serde(default)]
    pub message_ids: Vec<Value>,
    pub error: Option<String>,
    pub exc_info: Option<ExcInfo>,
    #[serde(default)]
    pub result: Value,
}

impl Job {
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "SUCCESS" | "FAILED" | "ABORTED")
    }

    /// Returns the name of the instance, or the number of the object, that the job
    /// changes.
    pub fn target(&self) -> Option<String> {
        let first = self.arguments.get(0)?;
        match first.get("name").unwrap_or(first) {
            Value::String(name) => Some(name.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }
}

/// The latest reported state of each job. An event may arrive before the
/// response with the job's number.
#[derive(Debug, Default)]
pub(super) struct JobTracker {
    jobs: Mutex<BTreeMap<i64, Job>>,
    changed: Notify,
}

/// The parameters of a `collection_update` event.
#[derive(Deserialize)]
struct Event<'a> {
    collection: String,
    #[serde(borrow)]
    fields: Option<&'a RawValue>,
}

impl JobTracker {
    /// Records the event with these parameters if the event is about a job.
    pub fn record(&self, params: &str) {
        if params.len() > MAX_EVENT {
            tracing::debug!(length = params.len(), "event too long");
            return;
        }
        let fields = match serde_json::from_str::<Event<'_>>(params) {
            Ok(event) if event.collection == GET_JOBS => event.fields,
            _ => return,
        };
        match serde_json::from_str::<Job>(fields.unwrap_or(RawValue::NULL).get()) {
            Ok(job) => {
                let mut jobs = self.jobs();
                // Events may arrive out of order.
                if !jobs.get(&job.id).is_some_and(Job::is_over) {
                    jobs.insert(job.id, job);
                }
                while jobs.len() > MAX_JOBS {
                    jobs.pop_first();
                }
            }
            Err(error) => tracing::debug!(%error, "invalid event"),
        }
        self.wake();
    }

    /// Wakes all waiters. Also called when the connection ends.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until a job ends. Returns `None` after `is_closed` returns true.
    pub async fn wait_for_end(&self, id: i64, is_closed: impl Fn() -> bool) -> Option<Job> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registers before the check, so that no notification is missed.
            changed.as_mut().enable();
            if let Some(job) = self.get(id).filter(Job::is_over) {
                return Some(job);
            }
            if is_closed() {
                return None;
            }
            changed.await;
        }
    }

    fn get(&self, id: i64) -> Option<Job> {
        self.jobs().get(&id).cloned()
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<i64, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: i64, state: &str) -> String {
        json!({"msg": "changed", "collection": GET_JOBS, "id": id, "fields": {
            "id": id, "method": "virt.instance.start", "arguments": ["px-a"], "state": state,
            "error": null, "exc_info": null, "result": true}})
        .to_string()
    }

    #[test]
    fn ended_job_stays_ended_and_oldest_jobs_are_dropped() {
        let tracker = JobTracker::default();
        tracker.record(&event(1, "RUNNING"));
        assert!(!tracker.get(1).unwrap().is_over());
        tracker.record(&event(1, "SUCCESS"));
        tracker.record(&event(1, "RUNNING"));
        assert!(tracker.get(1).unwrap().is_over());
        assert_eq!(tracker.get(1).unwrap().target().as_deref(), Some("px-a"));
        for id in 2..=i64::try_from(MAX_JOBS).unwrap() + 1 {
            tracker.record(&event(id, "WAITING"));
        }
        assert!(tracker.get(1).is_none() && tracker.get(2).is_some());
    }

    #[test]
    fn invalid_and_oversized_events_are_ignored() {
        let tracker = JobTracker::default();
        tracker.record(
            r#"{"msg": "changed", "collection": "interface.query", "fields": {"id": "x"}}"#,
        );
        tracker.record("invalid");
        tracker.record(&event(999, &"x".repeat(MAX_EVENT)));
        assert!(tracker.get(999).is_none());
        tracker.record(&event(999, "SUCCESS"));
        assert!(tracker.get(999).is_some());
    }
}
