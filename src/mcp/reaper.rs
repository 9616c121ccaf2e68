//! Stops idle sandboxes and destroys expired ones.

use std::sync::Arc;

use time::OffsetDateTime;

use super::config::Limits;
use super::error::Result;
use super::service::Service;
use super::state::{Record, Status};
use crate::model::{self, ExecRequest, Name};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The sandbox is idle. Skipped while a job is running in the sandbox.
    Stop,
    /// The sandbox has expired. Executed even if the sandbox is in use.
    Destroy,
}

/// Returns the action that is due at the time `now`.
pub fn decide(now: OffsetDateTime, record: &Record, limits: &Limits) -> Option<Action> {
    if now >= limits.expires_at(record) {
        return Some(Action::Destroy);
    }
    let idle = now - record.last_activity_at;
    (record.status == Status::Running && idle >= limits.idle_stop_after).then_some(Action::Stop)
}

/// Checks all sandboxes at every interval until the server stops.
pub async fn run(service: &Arc<Service>) {
    loop {
        service.reap().await;
        tokio::select! {
            () = service.stopping().cancelled() => return,
            () = tokio::time::sleep(service.config.reap_interval) => {}
        }
    }
}

impl Service {
    /// Starts a background task for every action that is due.
    pub(super) async fn reap(self: &Arc<Self>) {
        let now = (self.clock)();
        for record in self.store.all() {
            if record.doomed {
                continue;
            }
            match decide(now, &record, &self.config.limits) {
                None => {}
                Some(Action::Destroy) => {
                    tracing::info!(sandbox = record.name, "expired: destroying");
                    self.store
                        .update(&record.name, |record| record.doomed = true);
                    self.spawn_destroy(record.name);
                }
                Some(Action::Stop) => {
                    let service = self.clone();
                    self.tasks.spawn(async move {
                        if let Err(error) = service.stop_idle(&record.name).await {
                            tracing::warn!(sandbox = record.name, %error, "cannot stop");
                        }
                    });
                }
            }
        }
        self.save_or_log().await;
    }

    /// Stops the sandbox unless it is in use or was used after the decision. A
    /// running job counts as use.
    async fn stop_idle(&self, name: &str) -> Result<()> {
        let Some(_guard) = self.locks.get(name).try_write() else {
            return Ok(());
        };
        let is_due = |record: &Record| {
            decide((self.clock)(), record, &self.config.limits) == Some(Action::Stop)
        };
        if !self.store.get(name).is_some_and(|record| is_due(&record)) {
            return Ok(());
        }
        if self.has_jobs(name).await? {
            self.touch(name);
            return Ok(());
        }
        tracing::info!(sandbox = name, "idle: stopping");
        self.stop_pixel(name).await
    }

    async fn has_jobs(&self, name: &str) -> Result<bool> {
        let pixel: Name = name.parse()?;
        let script = include_str!("guest/has-jobs.sh");
        let request = ExecRequest::root(["/bin/sh", "-c", script, "has-jobs"]);
        match self.backend.guest(&pixel).output(&request).await {
            Ok(output) => Ok(output.status.success()),
            // Another program has stopped or deleted the pixel.
            Err(model::Error::WrongState { .. } | model::Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::base::BaseBuilder;
    use crate::lifecycle::InstanceDefaults;
    use crate::mcp::config::Config;
    use crate::mcp::state::Store;
    use crate::model::fake::FakeBackend;
    use crate::model::{ExitStatus, Output};

    fn at(seconds: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn idle_sandboxes_stop_and_expired_ones_are_destroyed_on_the_second() {
        use Status::{Failed, Provisioning, Running, Stopped};
        let limits = Config::sample().limits;
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
            // The sandbox's own expiry cannot exceed the server's limit.
            (Running, 599, Some(9000), 600, Some(Action::Destroy)),
        ] {
            let record = Record {
                last_activity_at: at(active),
                expires_at: expires.map(at),
                ..Record::new("a".into(), status, at(0))
            };
            assert_eq!(
                decide(at(now), &record, &limits),
                expected,
                "{record:?} {now}"
            );
        }
    }

    /// Runs the reaper once and waits until its tasks have finished.
    async fn reap(service: &Arc<Service>) {
        service.reap().await;
        service.tasks.close();
        service.tasks.wait().await;
        service.tasks.reopen();
    }

    #[tokio::test]
    async fn idle_and_expired_sandboxes_are_reaped_over_time() {
        let dir = tempfile::tempdir().unwrap();
        let backend = FakeBackend::with_pixels(["idle", "job", "used", "timed"]);
        // The sandboxes `job` and `timed` run jobs.
        backend.on_exec(|pixel, command| {
            let is_job_check = command.contains("PIXELS_EXEC_ID=job-");
            is_job_check.then(|| Output {
                status: ExitStatus(i32::from(!["job", "timed"].contains(&pixel))),
                stdout: Vec::new(),
                stderr: Vec::new(),
            })
        });
        let (store, _) = Store::load(&dir.path().join("state.json"), "here").unwrap();
        for name in ["idle", "job", "used", "timed"] {
            let record = Record {
                expires_at: (name == "timed").then(|| at(100)),
                ..Record::new(name.into(), Status::Running, at(0))
            };
            assert!(store.add(record, None));
        }
        let now = Arc::new(Mutex::new(at(0)));
        let clock = {
            let now = now.clone();
            Arc::new(move || *now.lock().unwrap())
        };
        let base_builder = BaseBuilder {
            defaults: InstanceDefaults::for_tests(),
            bases: BTreeMap::new(),
            prefix: "b-".into(),
            lock_dir: dir.path().to_owned(),
        };
        let server = Box::new(backend.clone());
        let service = Service::new(server, base_builder, Config::sample(), store, clock);
        let service = Arc::new(service);
        let mut shown = Vec::new();
        for seconds in [50, 59, 60, 99, 100, 109, 110, 119, 120, 599, 600] {
            *now.lock().unwrap() = at(seconds);
            reap(&service).await;
            let all = service.list().await.unwrap();
            let line: Vec<String> = all
                .iter()
                .map(|view| match view.status {
                    Status::Stopped => format!("({} {})", view.name, view.idle_for),
                    _ => format!("{} {}", view.name, view.idle_for),
                })
                .collect();
            shown.push(format!("{seconds}: {}", line.join(", ")));
            if seconds == 50 {
                service.touch("used");
                let ends: Vec<&str> = all.iter().map(|it| it.expires_at.as_str()).collect();
                let hard = "1970-01-01T00:10:00Z";
                assert_eq!(ends, [hard, hard, "1970-01-01T00:01:40Z", hard]);
            }
        }
        let expected = [
            "50: idle 50s, job 50s, timed 50s, used 50s",
            "59: idle 59s, job 59s, timed 59s, used 9s",
            // A running job prevents the idle stop.
            "60: (idle 1m0s), job 0s, timed 0s, used 10s",
            "99: (idle 1m39s), job 39s, timed 39s, used 49s",
            // A running job does not prevent expiry.
            "100: (idle 1m40s), job 40s, used 50s",
            "109: (idle 1m49s), job 49s, used 59s",
            "110: (idle 1m50s), job 50s, (used 1m0s)",
            "119: (idle 1m59s), job 59s, (used 1m9s)",
            "120: (idle 2m0s), job 0s, (used 1m10s)",
            "599: (idle 9m59s), job 0s, (used 9m9s)",
            "600: ",
        ];
        assert_eq!(shown, expected);
        assert!(backend.names().is_empty());
    }
}
