//! A simulated TrueNAS server that strictly enforces the documented protocol.
//! Its instances run on the real Incus daemon, so they boot, run an SSH server
//! and can be rolled back to snapshots. The server lists and changes only
//! instances of the current test.

mod answer;
mod calls;
mod cron;
mod files;
mod instances;
mod jobs;
mod lxc;
mod query;
mod snapshots;
mod template;
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
use template::Template;

pub const API_KEY: &str = "7-Qv3xSECRETjH8sSECRETpW2nSECRETkL9mSECRETtR4yGu1";
pub const POOL: &str = "tank";

/// A fault injected into one call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Closes the connection without executing the call.
    CutBefore,
    /// Closes the connection immediately, but executes the call.
    CutDuring,
    /// Executes the call, then closes the connection without a response.
    CutAfter,
    /// Delays the response by this time.
    Late(Duration),
    /// Stops answering on this connection, including pings.
    Silence,
    /// Returns this error without executing the call.
    Refuse(Value),
    /// Creates the job, which then fails.
    FailJob,
    /// The queue is full. A job call returns the id of the last job that waits
    /// for the instance. Other calls fail because too many calls are running.
    FullQueue,
    /// Executes the call, then restarts the server, which loses all jobs.
    Restart,
}

/// Rate limit for calls before login. In each `window`, calls beyond the first
/// `calls` fail after `pause`.
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

/// The response to the next logins.
#[derive(Debug, Clone, Default)]
pub enum LoginAnswer {
    #[default]
    ByKey,
    Always(Value),
    /// Closes the connection after the upgrade: client address not allowed.
    NotAllowed,
    /// Redirects the upgrade request, as old releases and other servers do.
    NoApi,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<String>,
    /// Protocol violations of the client. Any violation fails the test.
    wrong: Vec<String>,
    jobs: BTreeMap<i64, Value>,
    next_job: i64,
    /// Ids of running and waiting jobs, by lock.
    queues: BTreeMap<String, VecDeque<i64>>,
    cron: BTreeMap<i64, Value>,
    next_cron: i64,
    /// Instances cloned from a snapshot, by snapshot id.
    clones: BTreeMap<String, Vec<String>>,
    /// Snapshots that are deleted with their last clone.
    deferred: Vec<String>,
    logins: u32,
    limit: Option<RateLimit>,
    /// Start of the current rate limit window, and calls since then.
    window: Option<(Instant, u32)>,
    limited: u32,
    login: LoginAnswer,
    /// State of the containers service. `None` if the service is running.
    service: Option<String>,
    /// Called with the root filesystem of every started instance.
    planted: Option<Plant>,
    /// Reports all disks as not mounted.
    hides_disks: bool,
    /// What instances are copied from, after the first create.
    template: Option<Arc<Template>>,
    /// Instances have no SSH server, as with most images.
    lacks_ssh: bool,
}

pub struct Inner {
    /// TrueNAS release, for example `25.04.2`.
    pub version: String,
    release: (u32, u32),
    /// Name prefix of this test's instances.
    prefix: String,
    incus: Server,
    image: String,
    state: Mutex<State>,
    connections: Mutex<Vec<Arc<wire::Peer>>>,
}

pub struct Nas {
    pub inner: Arc<Inner>,
    pub port: u16,
    /// PEM certificate. `fingerprint` is its SHA-256 hash.
    pub certificate: String,
    pub fingerprint: String,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Runs ssh-keygen on a key file. Panics if ssh-keygen fails.
pub fn ssh_keygen(args: &[&str], key: &Path) {
    let mut command = std::process::Command::new("ssh-keygen");
    let made = command.arg("-q").args(args).arg("-f").arg(key).status();
    assert!(made.unwrap().success());
}

impl Nas {
    /// Starts a server for the instances of this environment's test.
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
            .expect("no image found: run pixels setup");
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

    /// Starts a server. Returns it with an environment that has an SSH key.
    pub fn lab(version: &str, test: &str) -> (Self, TestEnv) {
        lab::ready();
        let mut env = TestEnv::new(&format!("{test}{}", version.replace('.', "")));
        let nas = Self::start(version, &env);
        nas.configure(&mut env);
        // Installs packages, which may take longer than a test waits for a command.
        let template = Template::shared(&nas.inner.incus, &nas.inner.image);
        nas.inner.state.lock().unwrap().template = Some(template);
        let dir = env.home().join(".ssh");
        std::fs::create_dir_all(&dir).unwrap();
        ssh_keygen(&["-t", "ed25519", "-N", ""], &dir.join("id_ed25519"));
        (nas, env)
    }

    /// Configures the environment to use this server.
    pub fn configure(&self, env: &mut TestEnv) {
        env.set("PIXELS_BACKEND", "truenas")
            .set("PIXELS_TRUENAS_HOST", "127.0.0.1")
            .set("PIXELS_TRUENAS_PORT", &self.port.to_string())
            .set("PIXELS_TRUENAS_API_KEY", API_KEY)
            .set("PIXELS_TRUENAS_FINGERPRINT", &self.fingerprint);
    }

    /// Injects the fault into a call of `method` after `spared` calls.
    pub fn on(&self, method: &str, spared: usize, fault: Fault) -> &Self {
        self.inner.state.lock().unwrap().rules.push(Rule {
            method: method.to_owned(),
            spared,
            fault,
        });
        self
    }

    /// Removes all faults. Returns true if every fault had occurred.
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

    /// Methods of all calls since the last `forget`.
    pub fn seen(&self) -> Vec<String> {
        self.inner.state.lock().unwrap().seen.clone()
    }

    pub fn logins(&self) -> u32 {
        self.inner.state.lock().unwrap().logins
    }

    /// Snapshot labels of a pixel on the server, including hidden snapshots.
    pub fn snapshots_of(&self, pixel: &str) -> Vec<String> {
        self.inner.incus.checkpoints(pixel)
    }

    /// The configuration of a pixel's instance on the Incus daemon, as JSON.
    pub fn noted(&self, pixel: &str) -> String {
        let path = format!("/1.0/instances/px-{pixel}");
        self.inner.incus.get(&path)["config"].to_string()
    }

    /// Number of existing cron jobs.
    pub fn cron(&self) -> usize {
        self.inner.state.lock().unwrap().cron.len()
    }

    /// Enables a login rate limit. By default, logins are not limited.
    pub fn limit_logins(&self, limit: RateLimit) {
        let mut state = self.inner.state.lock().unwrap();
        state.limit = Some(limit);
        state.window = None;
    }

    /// Number of calls rejected by the rate limit.
    pub fn limited(&self) -> u32 {
        self.inner.state.lock().unwrap().limited
    }

    pub fn answer_logins(&self, how: LoginAnswer) {
        self.inner.state.lock().unwrap().login = how;
    }

    /// Calls `what` with the root filesystem of every instance that starts.
    pub fn plant(&self, what: impl Fn(&Path) + Send + 'static) {
        self.inner.state.lock().unwrap().planted = Some(Box::new(what));
    }

    /// Creates instances from an image without an SSH server, as most images are.
    pub fn without_ssh_server(self) -> Self {
        self.inner.state.lock().unwrap().lacks_ssh = true;
        self
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

    /// Counts a login. Returns the delay of its rejection if over the limit.
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

    /// Records a call and returns the fault to inject, if any.
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
