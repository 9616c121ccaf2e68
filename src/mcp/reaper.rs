//! When sandboxes are stopped and destroyed: a pure decision on a record and
//! the time, and the loop that carries it out.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::service::Service;
use super::state::{Record, Status};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nobody has used it for too long. Not while anything runs in it.
    Stop,
    /// Its time is over, whatever it does.
    Destroy,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle_stop_after: Duration,
    pub hard_destroy_after: Duration,
}

/// When a sandbox is destroyed at the latest.
pub fn end_of(record: &Record, limits: &Limits) -> OffsetDateTime {
    let hard = record.created_at + limits.hard_destroy_after;
    record.expires_at.map_or(hard, |expires| expires.min(hard))
}

pub fn decide(now: OffsetDateTime, record: &Record, limits: &Limits) -> Option<Action> {
    if now >= end_of(record, limits) {
        return Some(Action::Destroy);
    }
    let idle = now - record.last_activity_at;
    (record.status == Status::Running && idle >= limits.idle_stop_after).then_some(Action::Stop)
}

/// Looks at every sandbox again and again until the server stops.
pub async fn run(service: Arc<Service>, interval: Duration) {
    loop {
        service.reap().await;
        tokio::select! {
            () = service.stopping().cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        idle_stop_after: Duration::from_secs(60),
        hard_destroy_after: Duration::from_secs(600),
    };

    fn record(status: Status, active: i64, expires: Option<i64>) -> Record {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = format!(
            r#"{{"name":"a","status":"{}","created_at":"1970-01-01T00:00:00Z",
                "last_activity_at":"1970-01-01T00:00:00Z"}}"#,
            status.as_str()
        );
        let mut record: Record = serde_json::from_str(&text).unwrap();
        record.last_activity_at = at(active.try_into().unwrap());
        record.expires_at = expires.map(|it| at(it.try_into().unwrap()));
        record
    }

    #[test]
    fn idle_ones_are_stopped_and_old_ones_destroyed_to_the_second() {
        use Status::{Failed, Provisioning, Running, Stopped};
        for (status, active, expires, now, expected) in [
            (Running, 0, None, 59, None),
            (Running, 0, None, 60, Some(Action::Stop)),
            (Running, 50, None, 109, None),
            (Stopped, 0, None, 300, None),
            (Failed, 0, None, 300, None),
            (Provisioning, 0, None, 300, None),
            (Running, 599, None, 599, None),
            (Running, 599, None, 600, Some(Action::Destroy)),
            (Stopped, 0, None, 600, Some(Action::Destroy)),
            (Failed, 0, None, 600, Some(Action::Destroy)),
            (Running, 99, Some(100), 99, None),
            (Running, 99, Some(100), 100, Some(Action::Destroy)),
            // Nobody can ask for more than the server gives.
            (Running, 599, Some(9000), 600, Some(Action::Destroy)),
        ] {
            let record = record(status, active, expires);
            let now = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(now);
            assert_eq!(decide(now, &record, &LIMITS), expected, "{record:?} {now}");
        }
    }
}
