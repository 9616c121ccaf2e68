//! Time that passes, as lists of sandboxes show it: by a clock of the test's
//! own, on a server that knows which pixels there are and nothing else.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::options::{Limits, Options};
use super::service::Service;
use super::state::{Record, Status, Store};
use crate::base::BaseBuilder;
use crate::egress::{Mode, Policy};
use crate::lifecycle::gateway::{DEFAULT_BRIDGE, GatewaySpec};
use crate::lifecycle::{GuestPolicy, InstanceDefaults, Network};
use crate::model::{
    self, Backend, Capabilities, Checkpoint, CreateSpec, Error, Event, ExecIo, ExecRequest,
    ExitStatus, FileStat, ForkSpec, Guest, GuestFile, InitScript, Instance, Label, Name, Output,
    Properties, Result, Subject, Usage,
};

/// The pixels by name, and whether a long job runs in each.
#[derive(Debug, Clone, Default)]
struct Pixels(Arc<Mutex<BTreeMap<Name, (Instance, bool)>>>);

impl Pixels {
    fn add(&self, name: &str, has_job: bool) {
        let name: Name = name.parse().unwrap();
        let instance = Instance {
            name: name.clone(),
            status: model::Status::Running,
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1)],
            created_at: 0,
            started_once: true,
            image: None,
            cpu: None,
            memory: None,
            privileged: false,
            mac: None,
            isolated_bridge: None,
            properties: Properties::new(),
        };
        self.0.lock().unwrap().insert(name, (instance, has_job));
    }
}

/// Nobody who watches the time asks for this.
fn never<T>() -> Result<T> {
    Err(Error::Unsupported {
        operation: "this".into(),
        reason: "there are only pixels here".into(),
    })
}

#[async_trait]
impl Backend for Pixels {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            checkpoints: false,
            fork: false,
            stopped_files: false,
        }
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        let all = self.0.lock().unwrap();
        Ok(all.values().map(|(it, _)| it.clone()).collect())
    }

    async fn get(&self, name: &Name) -> Result<Instance> {
        let all = self.0.lock().unwrap();
        let found = all.get(name).map(|(it, _)| it.clone());
        found.ok_or_else(|| Error::NotFound(Subject::pixel(name)))
    }

    async fn stop(&self, name: &Name, _: Duration) -> Result<()> {
        let mut all = self.0.lock().unwrap();
        let (instance, _) = all
            .get_mut(name)
            .ok_or_else(|| Error::NotFound(Subject::pixel(name)))?;
        instance.status = model::Status::Stopped;
        Ok(())
    }

    async fn destroy(&self, name: &Name) -> Result<()> {
        let removed = self.0.lock().unwrap().remove(name);
        removed
            .map(drop)
            .ok_or_else(|| Error::NotFound(Subject::pixel(name)))
    }

    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a> {
        let all = self.0.lock().unwrap();
        Box::new(Jobs(all.get(name).is_some_and(|(_, has_job)| *has_job)))
    }

    async fn wait_idle(&self, _: &Name) -> Result<()> {
        Ok(())
    }

    async fn close(&self, _: Duration) {}

    async fn has_image(&self, _: &str) -> Result<bool> {
        never()
    }
    async fn image_with_prefix(&self, _: &str) -> Result<Option<String>> {
        never()
    }
    async fn ensure_isolated_bridge(&self, _: &str) -> Result<()> {
        never()
    }
    async fn host_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        never()
    }
    async fn remove_isolated_bridge(&self, _: &str) -> Result<()> {
        never()
    }
    async fn create(&self, _: &CreateSpec) -> Result<InitScript> {
        never()
    }
    async fn fork(&self, _: &ForkSpec) -> Result<InitScript> {
        never()
    }
    async fn start(&self, _: &Name) -> Result<()> {
        never()
    }
    async fn address(&self, _: &Name) -> Result<Option<Ipv4Addr>> {
        never()
    }
    async fn usage(&self, _: &Name) -> Result<Usage> {
        never()
    }
    async fn watch(&self, _: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
        never()
    }
    async fn set_properties(&self, _: &Name, _: &Properties) -> Result<()> {
        never()
    }
    async fn checkpoint(&self, _: &Name, _: &Label, _: Option<Duration>) -> Result<()> {
        never()
    }
    async fn checkpoints(&self, _: &Name) -> Result<Vec<Checkpoint>> {
        never()
    }
    async fn restore(&self, _: &Name, _: &Label) -> Result<()> {
        never()
    }
    async fn delete_checkpoint(&self, _: &Name, _: &Label) -> Result<()> {
        never()
    }
}

/// A pixel in which one can only look for jobs.
struct Jobs(bool);

#[async_trait]
impl Guest for Jobs {
    async fn output(&self, request: &ExecRequest) -> Result<Output> {
        assert!(request.argv[2].contains("PIXELS_EXEC_ID=job-"));
        Ok(Output {
            status: ExitStatus(i32::from(!self.0)),
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    async fn exec(&self, _: &ExecRequest, _: ExecIo) -> Result<ExitStatus> {
        never()
    }
    async fn read_file(&self, _: &str, _: u64) -> Result<Vec<u8>> {
        never()
    }
    async fn write_file(&self, _: &GuestFile) -> Result<()> {
        never()
    }
    async fn write_chunks(&self, _: &str, _: mpsc::Receiver<Bytes>) -> Result<()> {
        never()
    }
    async fn rename(&self, _: &str, _: &str) -> Result<()> {
        never()
    }
    async fn remove_file(&self, _: &str) -> Result<()> {
        never()
    }
    async fn make_dir(&self, _: &str) -> Result<()> {
        never()
    }
    async fn symlink(&self, _: &str, _: &str) -> Result<()> {
        never()
    }
    async fn read_link(&self, _: &str) -> Result<String> {
        never()
    }
    async fn list_dir(&self, _: &str) -> Result<Vec<String>> {
        never()
    }
    async fn stat(&self, _: &str) -> Result<FileStat> {
        never()
    }
}

fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn base_builder(locks: &std::path::Path) -> BaseBuilder {
    let defaults = InstanceDefaults {
        network: Network::External(GuestPolicy::default()),
        gateway: GatewaySpec {
            name: Name::gateway(None),
            bridge: DEFAULT_BRIDGE.into(),
            subnet: "10.98.0.0/24".parse().unwrap(),
            any_subnet: false,
            dns: Vec::new(),
            built_image_prefix: String::new(),
            image: String::new(),
            learned: None,
        },
        policy: Policy::new(Mode::Unrestricted, []),
        plan: None,
        limits: model::Limits::default(),
        image: String::new(),
        default_image: None,
    };
    BaseBuilder {
        defaults,
        bases: BTreeMap::new(),
        prefix: "b-".into(),
        lock_dir: locks.to_owned(),
    }
}

fn record(name: &str, expires_at: Option<OffsetDateTime>) -> Record {
    let text = format!(
        r#"{{"name":"{name}","status":"running","created_at":"1970-01-01T00:00:00Z",
            "last_activity_at":"1970-01-01T00:00:00Z"}}"#
    );
    let mut record: Record = serde_json::from_str(&text).unwrap();
    record.expires_at = expires_at;
    record
}

/// Looks at the sandboxes once, and waits for what follows from that.
async fn reap(service: &Arc<Service>) {
    service.reap().await;
    service.tasks.close();
    service.tasks.wait().await;
    service.tasks.reopen();
}

#[tokio::test]
async fn lists_show_what_time_has_done() {
    let dir = tempfile::tempdir().unwrap();
    let pixels = Pixels::default();
    let (store, _) = Store::load(&dir.path().join("state.json"), "here").unwrap();
    for (name, has_job, expires) in [
        ("idle", false, None),
        ("job", true, None),
        ("used", false, None),
        ("timed", true, Some(at(100))),
    ] {
        pixels.add(name, has_job);
        assert!(store.add(record(name, expires), None));
    }
    let now = Arc::new(Mutex::new(at(0)));
    let options = Options {
        prefix: "s-".into(),
        limits: Limits {
            idle_stop_after: Duration::from_secs(60),
            hard_destroy_after: Duration::from_secs(600),
        },
        exec_timeout_max: Duration::from_secs(60),
        max_sandboxes: None,
        ceiling: Mode::Unrestricted,
        owner: "me".into(),
    };
    let clock = {
        let now = now.clone();
        Arc::new(move || *now.lock().unwrap())
    };
    let server = Box::new(pixels.clone());
    let service = Service::new(server, base_builder(dir.path()), options, store, clock);
    let service = Arc::new(service);
    let mut shown = Vec::new();
    for seconds in [50, 59, 60, 99, 100, 109, 110, 119, 120, 599, 600] {
        *now.lock().unwrap() = at(seconds);
        reap(&service).await;
        let all = service.list().await.unwrap();
        let line: Vec<String> = all
            .iter()
            .map(|one| match one.status {
                Status::Stopped => format!("({} {})", one.name, one.idle_for),
                _ => format!("{} {}", one.name, one.idle_for),
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
        // A time to live that is over does not.
        "100: (idle 1m40s), job 40s, used 50s",
        "109: (idle 1m49s), job 49s, used 59s",
        "110: (idle 1m50s), job 50s, (used 1m0s)",
        "119: (idle 1m59s), job 59s, (used 1m9s)",
        "120: (idle 2m0s), job 0s, (used 1m10s)",
        "599: (idle 9m59s), job 0s, (used 9m9s)",
        "600: ",
    ];
    assert_eq!(shown, expected);
    assert!(pixels.0.lock().unwrap().is_empty());
}
