//! A TrueNAS that speaks the documented protocol strictly and keeps its
//! instances on the real Incus daemon: they boot, their snapshots roll back,
//! and an SSH server answers in them. It shows and touches only instances of
//! the test it was started for.

mod answer;
mod calls;
mod cron;
mod files;
mod instances;
mod jobs;
mod lxc;
mod query;
mod snapshots;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::env::TestEnv;
use super::lab;
use super::server::Server;

pub const API_KEY: &str = "7-Qv3xSECRETjH8sSECRETpW2nSECRETkL9mSECRETtR4yGu1";
pub const POOL: &str = "tank";

/// What happens to one call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends; the call is not carried out.
    CutBefore,
    /// The connection ends at once; the call is carried out.
    CutDuring,
    /// The call is carried out, and the connection ends in place of the answer.
    CutAfter,
    /// The answer comes this much later.
    Late(Duration),
    /// Nothing is answered any more on this connection, nor any ping.
    Silence,
    /// Refused in place of being carried out.
    Refuse(Value),
    /// The job is made, and fails.
    FailJob,
    /// No place in the queue: for a job, others wait for the same instance and
    /// The last of them is the answer; for another call, too many are in progress.
    FullQueue,
    /// The server restarts after the call: it knows no job any more.
    Restart,
}

/// How many logins an address may try in a window of time; the first too many is
/// answered after a pause.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    pub calls: u32,
    pub window: Duration,
    pub pause: Duration,
}

type Plant = Box<dyn Fn(&Path) + Send>;

struct Rule {
    method: String,
    spared: usize,
    fault: Fault,
}

/// How the next logins end.
#[derive(Debug, Clone, Default)]
pub enum LoginAnswer {
    #[default]
    ByKey,
    Always(Value),
    /// Closed right after the upgrade, as by the list of allowed addresses.
    NotAllowed,
    /// As an old release, or another server.
    NoApi,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<String>,
    /// What a correct client never does, which fails the test when it ends.
    wrong: Vec<String>,
    jobs: BTreeMap<i64, Value>,
    next_job: i64,
    /// Jobs that wait for a lock, by lock.
    queues: BTreeMap<String, VecDeque<i64>>,
    cron: BTreeMap<i64, Value>,
    next_cron: i64,
    /// Instances that were cloned from a snapshot.
    clones: BTreeMap<String, Vec<String>>,
    /// Snapshots that go with their last clone.
    deferred: Vec<String>,
    logins: u32,
    limit: Option<RateLimit>,
    /// When the current window began, and the logins since then.
    window: Option<(Instant, u32)>,
    limited: u32,
    login: LoginAnswer,
    /// The state of the containers service; `None` when it is up.
    service: Option<String>,
    /// Done to the root filesystem of every instance that is started.
    planted: Option<Plant>,
    /// No disk is shown as mounted.
    hides_disks: bool,
}

pub struct Inner {
    /// As `25.04.2`.
    pub version: String,
    release: (u32, u32),
    /// Instances of this test begin with it.
    prefix: String,
    incus: Server,
    image: String,
    state: Mutex<State>,
    connections: Mutex<Vec<Arc<wire::Peer>>>,
}

pub struct Nas {
    pub inner: Arc<Inner>,
    pub port: u16,
    /// PEM of the certificate, and its SHA-256.
    pub certificate: String,
    pub fingerprint: String,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Makes or changes a key.
pub fn ssh_keygen(args: &[&str], key: &Path) {
    let mut command = std::process::Command::new("ssh-keygen");
    let made = command.arg("-q").args(args).arg("-f").arg(key).status();
    assert!(made.unwrap().success());
}

impl Nas {
    /// For the instances of this environment's test.
    pub fn start(version: &str, env: &TestEnv) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap());
        let incus = Server::shared();
        let aliases = incus.get("/1.0/images/aliases?recursion=1");
        let image = aliases.as_array().unwrap().iter();
        let image = image
            .filter_map(|alias| alias["name"].as_str())
            .filter(|name| name.starts_with("pixels/"))
            .max()
            .expect("setup has built an image");
        let inner = Arc::new(Inner {
            version: version.to_owned(),
            release: (numbers.next().unwrap(), numbers.next().unwrap()),
            prefix: format!("px-{}", env.name("")),
            image: image.to_owned(),
            incus,
            state: Mutex::default(),
            connections: Mutex::default(),
        });
        let (port, certificate, fingerprint) = wire::listen(&inner, runtime.handle());
        Self {
            inner,
            port,
            certificate,
            fingerprint,
            runtime: Some(runtime),
        }
    }

    /// A server, and an environment that works on it and has a key of its own.
    pub fn lab(version: &str, test: &str) -> (Self, TestEnv) {
        lab::ready();
        let mut env = TestEnv::new(&format!("{test}{}", version.replace('.', "")));
        let nas = Self::start(version, &env);
        nas.configure(&mut env);
        let dir = env.home().join(".ssh");
        std::fs::create_dir_all(&dir).unwrap();
        ssh_keygen(&["-t", "ed25519", "-N", ""], &dir.join("id_ed25519"));
        (nas, env)
    }

    /// Points the environment here.
    pub fn configure(&self, env: &mut TestEnv) {
        env.set("PIXELS_BACKEND", "truenas")
            .set("PIXELS_TRUENAS_HOST", "127.0.0.1")
            .set("PIXELS_TRUENAS_PORT", &self.port.to_string())
            .set("PIXELS_TRUENAS_API_KEY", API_KEY)
            .set("PIXELS_TRUENAS_FINGERPRINT", &self.fingerprint);
    }

    /// The first call of the method, after `spared` others, meets the fault.
    pub fn on(&self, method: &str, spared: usize, fault: Fault) -> &Self {
        self.inner.state.lock().unwrap().rules.push(Rule {
            method: method.to_owned(),
            spared,
            fault,
        });
        self
    }

    /// No more faults; true when all of them had happened.
    pub fn heal(&self) -> bool {
        let mut state = self.inner.state.lock().unwrap();
        let all = state.rules.is_empty();
        state.rules.clear();
        all
    }

    pub fn forget(&self) -> &Self {
        self.inner.state.lock().unwrap().seen.clear();
        self
    }

    /// The methods of all calls so far.
    pub fn seen(&self) -> Vec<String> {
        self.inner.state.lock().unwrap().seen.clone()
    }

    pub fn logins(&self) -> u32 {
        self.inner.state.lock().unwrap().logins
    }

    /// The labels on the server, hidden ones too.
    pub fn snapshots_of(&self, pixel: &str) -> Vec<String> {
        self.inner.incus.checkpoints(pixel)
    }

    /// All that the server knows of an instance.
    pub fn noted(&self, pixel: &str) -> String {
        let path = format!("/1.0/instances/px-{pixel}");
        self.inner.incus.get(&path)["config"].to_string()
    }

    /// Cron jobs that are left.
    pub fn cron(&self) -> usize {
        self.inner.state.lock().unwrap().cron.len()
    }

    /// From now on; without it tests may log in as often as they like.
    pub fn limit_logins(&self, limit: RateLimit) {
        let mut state = self.inner.state.lock().unwrap();
        state.limit = Some(limit);
        state.window = None;
    }

    /// How many calls were over the limit.
    pub fn limited(&self) -> u32 {
        self.inner.state.lock().unwrap().limited
    }

    pub fn answer_logins(&self, how: LoginAnswer) {
        self.inner.state.lock().unwrap().login = how;
    }

    /// What the image does as soon as an instance of it runs.
    pub fn plant(&self, what: impl Fn(&Path) + Send + 'static) {
        self.inner.state.lock().unwrap().planted = Some(Box::new(what));
    }

    pub fn hide_disks(&self, hide: bool) {
        self.inner.state.lock().unwrap().hides_disks = hide;
    }

    pub fn service(&self, state: Option<&str>) {
        self.inner.state.lock().unwrap().service = state.map(str::to_owned);
    }
}

impl Drop for Nas {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        if !std::thread::panicking() {
            let wrong = &self.inner.state.lock().unwrap().wrong;
            assert!(
                wrong.is_empty(),
                "a correct client never does this: {wrong:?}"
            );
        }
    }
}

impl Inner {
    fn wrong(&self, what: String) {
        self.state.lock().unwrap().wrong.push(what);
    }

    fn is(&self, major: u32, minor: u32) -> bool {
        self.release >= (major, minor)
    }

    /// How long a login waits for its refusal when it is one too many.
    fn over_limit(&self) -> Option<Duration> {
        let mut state = self.state.lock().unwrap();
        let limit = state.limit?;
        let window = state
            .window
            .filter(|(begun, _)| begun.elapsed() < limit.window);
        let (begun, before) = window.unwrap_or_else(|| (Instant::now(), 0));
        state.window = Some((begun, before + 1));
        if before < limit.calls {
            return None;
        }
        state.limited += 1;
        Some(limit.pause)
    }

    /// The fault that is due for a call.
    fn fault(&self, method: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        state.seen.push(method.to_owned());
        let mut due = None;
        for (index, rule) in state.rules.iter_mut().enumerate() {
            if rule.method != method && rule.method != "*" {
                continue;
            }
            if rule.spared == 0 && due.is_none() {
                due = Some(index);
            } else {
                rule.spared = rule.spared.saturating_sub(1);
            }
        }
        due.map(|index| state.rules.remove(index).fault)
    }

    /// Sends an event about a job to all subscribers.
    fn tell(&self, msg: &str, job: &Value) {
        let params = json!({"msg": msg, "collection": jobs::COLLECTION, "id": job["id"],
            "fields": job});
        let event = json!({"jsonrpc": "2.0", "method": "collection_update", "params": params});
        for peer in self.connections.lock().unwrap().iter() {
            if peer.subscribed.load(Ordering::SeqCst) {
                peer.say(event.to_string());
            }
        }
    }
}
