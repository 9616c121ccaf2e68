//! Idle stop and expiry over time, by a clock that the test sets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use time::OffsetDateTime;

use super::config::Config;
use super::service::Service;
use super::state::{Record, Status, Store};
use crate::base::BaseBuilder;
use crate::egress::Mode;
use crate::lifecycle::InstanceDefaults;
use crate::model::fake::FakeBackend;
use crate::model::{ExitStatus, Output};

fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn base_builder(locks: &std::path::Path) -> BaseBuilder {
    BaseBuilder {
        defaults: InstanceDefaults::for_tests(),
        bases: BTreeMap::new(),
        prefix: "b-".into(),
        lock_dir: locks.to_owned(),
    }
}

/// Runs the reaper once and waits for the tasks it starts.
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
    // Jobs run in `job` and `timed`.
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
    let server = Box::new(backend.clone());
    let service = Service::new(
        server,
        base_builder(dir.path()),
        Config::sample(),
        store,
        clock,
    );
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
        // A job counts as use.
        "60: (idle 1m0s), job 0s, timed 0s, used 10s",
        "99: (idle 1m39s), job 39s, timed 39s, used 49s",
        // A job does not keep an expired sandbox.
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
