//! A strict backend and guest in memory, for unit tests.
//!
//! [`FakeBackend`] keeps instances, checkpoints, files and isolated bridges and
//! refuses whatever a server refuses: a name in use, a missing pixel, label,
//! image or bridge, a command in a stopped pixel. A command that no handler
//! answers panics with its argv. All clones of a backend share one state.
//!
//! Every call is one line of [`FakeBackend::calls`], such as `start a`,
//! `checkpoint a:ready`, `set_properties a base=dev` or `exec a sh -c …`, and
//! yields once before it changes anything, so concurrent calls interleave. A
//! test breaks a call by the beginning of its line:
//!
//! ```ignore
//! let backend = FakeBackend::new();
//! backend.add("a");
//! backend.on_command("nft list", "table inet pixels\n");
//! backend.fail_at("start a", 1);       // the server refuses, nothing happens
//! backend.lose_answer_at("create", 2); // it happens, and the answer is lost
//! backend.stall_at("fork", 1);         // no answer; it happens by `wait_idle`
//! backend.before("start", 1, move || cancel.cancel());
//! ```

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{
    Attachment, Backend, Checkpoint, CreateSpec, Error, Event, ExecIo, ExecRequest, ExitStatus,
    FileKind, FileStat, ForkSpec, Guest, GuestFile, Ids, InitScript, Instance, IsolatedNetwork,
    Label, Limits, Name, Properties, Result, Status, Subject, Usage, lock,
};

/// The image every new fake server holds.
pub(crate) const IMAGE: &str = "debian/13";

/// Directories of every new instance, which has no files.
const DIRECTORIES: [&str; 9] = [
    "/", "/etc", "/etc/ssh", "/home", "/root", "/tmp", "/usr", "/var", "/var/lib",
];

type Effect = Box<dyn FnOnce(&mut State) + Send>;
type Handler = dyn Fn(&Command<'_>) -> Option<Answer> + Send + Sync;

/// A command that a test answers.
pub(crate) struct Command<'a> {
    pub pixel: &'a str,
    pub request: &'a ExecRequest,
    /// All of stdin.
    pub stdin: &'a [u8],
}

impl Command<'_> {
    /// `argv` joined by spaces.
    pub fn line(&self) -> String {
        self.request.argv.join(" ")
    }
}

/// What a command prints, and its exit code.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: i32,
}

impl From<&str> for Answer {
    fn from(stdout: &str) -> Self {
        Self {
            stdout: stdout.into(),
            ..Self::default()
        }
    }
}

impl Answer {
    /// Prints nothing and exits with `status`.
    pub fn exit(status: i32) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }
}

/// What happens at the n-th call whose line begins with `call`.
struct Fault {
    call: String,
    /// Calls still to come, this one included.
    countdown: usize,
    kind: FaultKind,
}

enum FaultKind {
    Refuse(Error),
    LoseAnswer,
    Stall,
    Before(Box<dyn FnOnce() + Send>),
    After(Box<dyn FnOnce() + Send>),
}

#[derive(Clone)]
enum File {
    Regular {
        content: Vec<u8>,
        mode: u32,
        owner: Ids,
    },
    Directory,
    Symlink(String),
}

type Files = BTreeMap<String, File>;

struct Stored {
    instance: Instance,
    bridges: Vec<String>,
    address: Ipv4Addr,
    files: Files,
    checkpoints: Vec<(Checkpoint, Files)>,
}

struct State {
    /// Seconds since 1970; one more with each new instance or checkpoint.
    clock: i64,
    instances: BTreeMap<Name, Stored>,
    bridges: BTreeSet<String>,
    images: BTreeSet<String>,
    host_addresses: Vec<Ipv4Addr>,
    stopped_files: bool,
    init_script: InitScript,
    has_sent_writes: bool,
    calls: Vec<String>,
    faults: Vec<Fault>,
    /// Changes by [`FakeBackend::stall_at`] that the server still makes.
    stalled: Vec<Effect>,
    handlers: Vec<Arc<Handler>>,
}

impl State {
    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    fn get(&mut self, name: &Name) -> Result<&mut Stored> {
        let missing = || Error::NotFound(Subject::pixel(name));
        self.instances.get_mut(name).ok_or_else(missing)
    }

    /// The instance, if its files can be reached.
    fn with_files(&mut self, name: &Name) -> Result<&mut Files> {
        let stopped_files = self.stopped_files;
        let stored = self.get(name)?;
        match stored.instance.status {
            Status::Running => Ok(&mut stored.files),
            _ if stopped_files => Ok(&mut stored.files),
            _ => Err(stopped(name)),
        }
    }

    fn insert(
        &mut self,
        name: &Name,
        network: &Attachment,
        limits: &Limits,
        properties: &Properties,
        files: Files,
    ) -> Result<()> {
        if self.instances.contains_key(name) {
            return Err(Error::AlreadyExists(Subject::pixel(name)));
        }
        let (isolated_bridge, bridges) = match network {
            Attachment::Default => (None, Vec::new()),
            Attachment::IsolatedBridge(bridge) => (Some(bridge.clone()), vec![bridge.clone()]),
            Attachment::Gateway { bridge, .. } => (None, vec![bridge.clone()]),
        };
        if let Some(missing) = bridges.iter().find(|name| !self.bridges.contains(*name)) {
            return Err(Error::NotFound(Subject::Network(missing.clone())));
        }
        let created_at = self.tick();
        let number = u8::try_from(created_at % 250).unwrap() + 1;
        let mut instance = Instance {
            name: name.clone(),
            status: Status::Stopped,
            addresses: Vec::new(),
            created_at,
            started_once: false,
            image: Some("Debian 13".into()),
            cpu: limits.cpu.clone(),
            memory: limits.memory.map(|bytes| bytes.to_string()),
            privileged: false,
            mac: Some(format!("00:16:3e:00:00:{number:02x}")),
            isolated_bridge,
            properties: Properties::new(),
        };
        merge(&mut instance.properties, properties);
        let stored = Stored {
            instance,
            bridges,
            address: Ipv4Addr::new(192, 0, 2, number),
            files,
            checkpoints: Vec::new(),
        };
        self.instances.insert(name.clone(), stored);
        Ok(())
    }
}

/// An in-memory server; see the module's documentation.
#[derive(Clone)]
pub(crate) struct FakeBackend(Arc<Mutex<State>>);

impl std::fmt::Debug for FakeBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.calls()).finish()
    }
}

impl FakeBackend {
    /// A server with one image and nothing else. Files of stopped pixels can
    /// be reached, and init scripts are applied.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            clock: 1_700_000_000,
            instances: BTreeMap::new(),
            bridges: BTreeSet::new(),
            images: [IMAGE.to_owned()].into(),
            host_addresses: vec![Ipv4Addr::new(192, 0, 2, 254)],
            stopped_files: true,
            init_script: InitScript::Applied,
            has_sent_writes: false,
            calls: Vec::new(),
            faults: Vec::new(),
            stalled: Vec::new(),
            handlers: Vec::new(),
        })))
    }

    /// Like TrueNAS: no init script, and no files of stopped pixels.
    pub fn without_stopped_access() -> Self {
        let backend = Self::new();
        {
            let mut state = backend.lock();
            state.stopped_files = false;
            state.init_script = InitScript::Unsupported;
        }
        backend
    }

    /// Like a restricted Incus project.
    pub fn refuse_init_scripts(&self) {
        self.lock().init_script = InitScript::Unsupported;
    }

    pub fn add_image(&self, alias: &str) {
        self.lock().images.insert(alias.to_owned());
    }

    pub fn add_bridge(&self, bridge: &str) {
        self.lock().bridges.insert(bridge.to_owned());
    }

    /// Adds a running pixel on the default network, without a call.
    pub fn add(&self, name: &str) {
        self.add_attached(name, &Attachment::Default);
    }

    pub fn add_attached(&self, name: &str, network: &Attachment) {
        let name = known_name(name);
        let mut state = self.lock();
        let (limits, properties) = (Limits::default(), Properties::new());
        let files = new_files();
        let added = state.insert(&name, network, &limits, &properties, files);
        added.unwrap();
        let instance = &mut state.get(&name).unwrap().instance;
        instance.started_once = true;
        instance.status = Status::Running;
    }

    /// Changes the record of an instance, without a call.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Instance)) {
        change(&mut self.lock().get(&known_name(name)).unwrap().instance);
    }

    /// The record of an instance, without a call.
    pub fn instance(&self, name: &str) -> Option<Instance> {
        let mut state = self.lock();
        let stored = state.get(&known_name(name)).ok()?;
        Some(stored.instance.clone())
    }

    pub fn property(&self, name: &str, key: &str) -> Option<String> {
        self.instance(name)?.properties.remove(key)
    }

    /// The names of all instances, gateways included.
    pub fn names(&self) -> Vec<String> {
        self.lock().instances.keys().map(Name::to_string).collect()
    }

    pub fn bridges(&self) -> Vec<String> {
        self.lock().bridges.iter().cloned().collect()
    }

    /// The labels of a pixel's checkpoints, oldest first.
    pub fn labels(&self, name: &str) -> Vec<String> {
        let mut state = self.lock();
        let stored = state.get(&known_name(name)).unwrap();
        let labels = stored
            .checkpoints
            .iter()
            .map(|(it, _)| it.label.to_string());
        labels.collect()
    }

    /// Adds a checkpoint of the present state, without a call.
    pub fn add_checkpoint(&self, name: &str, label: &str) {
        let label = label.parse().unwrap();
        snapshot(&mut self.lock(), &known_name(name), label).unwrap();
    }

    /// The content of a file, without a call.
    pub fn file(&self, name: &str, path: &str) -> Option<Vec<u8>> {
        let mut state = self.lock();
        match state.get(&known_name(name)).unwrap().files.get(path)? {
            File::Regular { content, .. } => Some(content.clone()),
            _ => None,
        }
    }

    /// Adds a file and the directories above it, without a call.
    pub fn put_file(&self, name: &str, path: &str, content: &str) {
        let mut state = self.lock();
        let files = &mut state.get(&known_name(name)).unwrap().files;
        let above = path.match_indices('/').skip(1);
        for (end, _) in above {
            files
                .entry(path[..end].to_owned())
                .or_insert(File::Directory);
        }
        let file = File::Regular {
            content: content.into(),
            mode: 0o644,
            owner: Ids::ROOT,
        };
        files.insert(path.to_owned(), file);
    }

    /// Answers commands; the handler added last is asked first, and `None`
    /// passes the command on. A handler may call this backend's own methods.
    pub fn on_exec(
        &self,
        handler: impl Fn(&Command<'_>) -> Option<Answer> + Send + Sync + 'static,
    ) {
        self.lock().handlers.push(Arc::new(handler));
    }

    /// Answers every command whose argv, joined by spaces, contains `part`.
    pub fn on_command(&self, part: &str, answer: impl Into<Answer>) {
        let (part, answer) = (part.to_owned(), answer.into());
        self.on_exec(move |command| command.line().contains(&part).then(|| answer.clone()));
    }

    /// The lines of all calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// The calls since the last time this was asked for.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }

    /// The server refuses the n-th of these calls, and nothing happens.
    pub fn fail_at(&self, call: &str, n: usize) {
        let message = "injected failure".into();
        self.fail_with(call, n, Error::Server { code: 500, message });
    }

    pub fn fail_with(&self, call: &str, n: usize, error: Error) {
        self.fault(call, n, FaultKind::Refuse(error));
    }

    /// The server makes the change, and the connection breaks before it
    /// answers: the call is `Error::Unreachable`.
    pub fn lose_answer_at(&self, call: &str, n: usize) {
        self.fault(call, n, FaultKind::LoseAnswer);
    }

    /// The call never returns. The server makes the change when the caller has
    /// given up and asks for [`Backend::wait_idle`].
    pub fn stall_at(&self, call: &str, n: usize) {
        self.fault(call, n, FaultKind::Stall);
    }

    /// Runs `action` when the call has arrived and before it has an effect.
    pub fn before(&self, call: &str, n: usize, action: impl FnOnce() + Send + 'static) {
        self.fault(call, n, FaultKind::Before(Box::new(action)));
    }

    /// Runs `action` when the call has had its effect and before it returns.
    pub fn after(&self, call: &str, n: usize, action: impl FnOnce() + Send + 'static) {
        self.fault(call, n, FaultKind::After(Box::new(action)));
    }

    fn fault(&self, call: &str, n: usize, kind: FaultKind) {
        assert!(n > 0, "calls are counted from 1");
        let call = call.to_owned();
        let countdown = n;
        self.lock().faults.push(Fault {
            call,
            countdown,
            kind,
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Notes the call and returns the faults that are due.
    fn due(&self, line: String) -> Vec<FaultKind> {
        let mut state = self.lock();
        let mut due = Vec::new();
        for mut fault in std::mem::take(&mut state.faults) {
            fault.countdown -= usize::from(line.starts_with(&fault.call));
            match fault.countdown {
                0 => due.push(fault.kind),
                _ => state.faults.push(fault),
            }
        }
        state.calls.push(line);
        due
    }

    async fn call<T>(
        &self,
        line: String,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (mut refusal, mut lost, mut stalls, mut after) = (None, false, false, Vec::new());
        for kind in self.due(line) {
            match kind {
                FaultKind::Refuse(error) => refusal = Some(error),
                FaultKind::LoseAnswer => lost = true,
                FaultKind::Stall => stalls = true,
                FaultKind::Before(action) => action(),
                FaultKind::After(action) => after.push(action),
            }
        }
        tokio::task::yield_now().await;
        if let Some(error) = refusal {
            return Err(error);
        }
        if stalls {
            let late = move |state: &mut State| drop(effect(state));
            self.lock().stalled.push(Box::new(late));
            return std::future::pending().await;
        }
        let outcome = effect(&mut self.lock());
        if !after.is_empty() {
            after.into_iter().for_each(|action| action());
            tokio::task::yield_now().await;
        }
        match lost {
            true => Err(Error::Unreachable {
                endpoint: "the fake server".into(),
                reason: "the connection broke".into(),
            }),
            false => outcome,
        }
    }

    /// A call that changes something.
    async fn write<T>(
        &self,
        line: String,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.lock().has_sent_writes = true;
        self.call(line, effect).await
    }
}

fn known_name(name: &str) -> Name {
    match name.strip_prefix("gateway") {
        Some("") => Name::gateway(None),
        Some(rest) if rest.starts_with('-') => Name::gateway(Some(&rest[1..])),
        _ => name.parse().unwrap(),
    }
}

fn new_files() -> Files {
    DIRECTORIES
        .map(|path| (path.to_owned(), File::Directory))
        .into()
}

fn merge(properties: &mut Properties, changes: &Properties) {
    properties.extend(changes.clone());
    properties.retain(|_, value| !value.is_empty());
}

fn stopped(name: &Name) -> Error {
    Error::WrongState {
        subject: Subject::pixel(name),
        state: "stopped".into(),
    }
}

fn snapshot(state: &mut State, name: &Name, label: Label) -> Result<()> {
    let created_at = state.tick();
    let stored = state.get(name)?;
    if stored.checkpoints.iter().any(|(it, _)| it.label == label) {
        return Err(Error::AlreadyExists(Subject::checkpoint(name, label)));
    }
    let checkpoint = Checkpoint {
        temporary: label.temporary_id().is_some(),
        label,
        created_at,
        size: None,
        properties: stored.instance.properties.clone(),
    };
    let files = stored.files.clone();
    stored.checkpoints.push((checkpoint, files));
    Ok(())
}

fn position(stored: &Stored, name: &Name, label: &Label) -> Result<usize> {
    let mut labels = stored.checkpoints.iter().map(|(it, _)| &it.label);
    let missing = || Error::NotFound(Subject::checkpoint(name, label));
    labels.position(|it| it == label).ok_or_else(missing)
}

#[async_trait]
impl Backend for FakeBackend {
    fn can_access_stopped_files(&self) -> bool {
        self.lock().stopped_files
    }

    async fn image_aliases(&self) -> Result<Vec<String>> {
        let aliases = |state: &mut State| Ok(state.images.iter().cloned().collect());
        self.call("image_aliases".into(), aliases).await
    }

    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork> {
        Ok(self)
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InitScript> {
        let spec = spec.clone();
        let line = format!("create {}", spec.name);
        let create = move |state: &mut State| {
            if !state.images.contains(&spec.image) {
                return Err(Error::NotFound(Subject::Image(spec.image)));
            }
            let CreateSpec {
                name,
                network,
                limits,
                properties,
                ..
            } = &spec;
            state.insert(name, network, limits, properties, new_files())?;
            Ok(state.init_script)
        };
        self.write(line, create).await
    }

    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript> {
        let spec = spec.clone();
        let line = format!("fork {} {}", spec.from, spec.name);
        let fork = move |state: &mut State| {
            let from = &spec.from.pixel;
            let source = state.get(from)?;
            let (files, mut properties) = match &spec.from.label {
                None => (source.files.clone(), source.instance.properties.clone()),
                Some(label) => {
                    let (checkpoint, files) = &source.checkpoints[position(source, from, label)?];
                    (files.clone(), checkpoint.properties.clone())
                }
            };
            let kept = match (&source.instance.isolated_bridge, source.bridges.first()) {
                (Some(bridge), _) => Attachment::IsolatedBridge(bridge.clone()),
                (None, Some(bridge)) => Attachment::Gateway {
                    bridge: bridge.clone(),
                    subnet: String::new(),
                },
                (None, None) => Attachment::Default,
            };
            let limits = Limits {
                cpu: spec.limits.cpu.or_else(|| source.instance.cpu.clone()),
                memory: spec.limits.memory.or_else(|| {
                    let bytes = source.instance.memory.as_deref()?;
                    bytes.parse().ok()
                }),
            };
            merge(&mut properties, &spec.properties);
            let network = spec.network.unwrap_or(kept);
            state.insert(&spec.name, &network, &limits, &properties, files)?;
            Ok(state.init_script)
        };
        self.write(line, fork).await
    }

    async fn start(&self, name: &Name) -> Result<()> {
        let (line, name) = (format!("start {name}"), name.clone());
        let start = move |state: &mut State| {
            let instance = &mut state.get(&name)?.instance;
            instance.status = Status::Running;
            instance.started_once = true;
            Ok(())
        };
        self.write(line, start).await
    }

    async fn stop(&self, name: &Name, _: Duration) -> Result<()> {
        let (line, name) = (format!("stop {name}"), name.clone());
        let stop = move |state: &mut State| {
            state.get(&name)?.instance.status = Status::Stopped;
            Ok(())
        };
        self.write(line, stop).await
    }

    async fn destroy(&self, name: &Name) -> Result<()> {
        let (line, name) = (format!("destroy {name}"), name.clone());
        let destroy = move |state: &mut State| {
            state.get(&name)?;
            state.instances.remove(&name);
            Ok(())
        };
        self.write(line, destroy).await
    }

    async fn get(&self, name: &Name) -> Result<Instance> {
        let (line, name) = (format!("get {name}"), name.clone());
        let get = move |state: &mut State| Ok(state.get(&name)?.instance.clone());
        self.call(line, get).await
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        let list = |state: &mut State| {
            let pixels = state.instances.values().filter(|stored| {
                let instance = stored.instance.name.instance();
                Name::from_instance(&instance).is_some()
            });
            let with_address = |stored: &Stored| {
                let mut instance = stored.instance.clone();
                if instance.status == Status::Running {
                    instance.addresses.push(stored.address);
                }
                instance
            };
            Ok(pixels.map(with_address).collect())
        };
        self.call("list".into(), list).await
    }

    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>> {
        let (line, name) = (format!("address {name}"), name.clone());
        let address = move |state: &mut State| {
            let stored = state.get(&name)?;
            let is_running = stored.instance.status == Status::Running;
            Ok(is_running.then_some(stored.address))
        };
        self.call(line, address).await
    }

    async fn usage(&self, name: &Name) -> Result<Usage> {
        let (line, name) = (format!("usage {name}"), name.clone());
        let usage = move |state: &mut State| state.get(&name).map(|_| Usage::default());
        self.call(line, usage).await
    }

    /// Reports nothing and never returns.
    async fn watch(&self, _: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
        std::future::pending().await
    }

    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()> {
        let pairs = properties
            .iter()
            .map(|(key, value)| format!(" {key}={value}"));
        let line = format!("set_properties {name}{}", pairs.collect::<String>());
        let (name, changes) = (name.clone(), properties.clone());
        let set = move |state: &mut State| {
            merge(&mut state.get(&name)?.instance.properties, &changes);
            Ok(())
        };
        self.write(line, set).await
    }

    async fn checkpoint(&self, name: &Name, label: &Label, _: Option<Duration>) -> Result<()> {
        let line = format!("checkpoint {name}:{label}");
        let (name, label) = (name.clone(), label.clone());
        self.write(line, move |state| snapshot(state, &name, label))
            .await
    }

    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        let (line, name) = (format!("checkpoints {name}"), name.clone());
        let list = move |state: &mut State| {
            let all = state.get(&name)?.checkpoints.iter();
            Ok(all.map(|(checkpoint, _)| checkpoint.clone()).collect())
        };
        self.call(line, list).await
    }

    async fn restore(&self, name: &Name, label: &Label) -> Result<()> {
        let line = format!("restore {name}:{label}");
        let (name, label) = (name.clone(), label.clone());
        let restore = move |state: &mut State| {
            let stored = state.get(&name)?;
            let (checkpoint, files) = &stored.checkpoints[position(stored, &name, &label)?];
            stored.instance.properties = checkpoint.properties.clone();
            stored.files = files.clone();
            Ok(())
        };
        self.write(line, restore).await
    }

    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        let line = format!("delete_checkpoint {name}:{label}");
        let (name, label) = (name.clone(), label.clone());
        let delete = move |state: &mut State| {
            let stored = state.get(&name)?;
            let index = position(stored, &name, &label)?;
            stored.checkpoints.remove(index);
            Ok(())
        };
        self.write(line, delete).await
    }

    fn has_sent_writes(&self) -> bool {
        self.lock().has_sent_writes
    }

    async fn wait_idle(&self, name: &Name) -> Result<()> {
        let finish = |state: &mut State| {
            for effect in std::mem::take(&mut state.stalled) {
                effect(state);
            }
            Ok(())
        };
        self.call(format!("wait_idle {name}"), finish).await
    }

    async fn close(&self, _: Duration) {}

    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a> {
        Box::new(FakeGuest {
            backend: self,
            name,
        })
    }
}

#[async_trait]
impl IsolatedNetwork for FakeBackend {
    async fn ensure_bridge(&self, bridge: &str) -> Result<()> {
        let line = format!("ensure_bridge {bridge}");
        let bridge = bridge.to_owned();
        let ensure = move |state: &mut State| {
            state.bridges.insert(bridge);
            Ok(())
        };
        self.write(line, ensure).await
    }

    async fn host_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let addresses = |state: &mut State| Ok(state.host_addresses.clone());
        self.call("host_addresses".into(), addresses).await
    }

    async fn remove_bridge(&self, bridge: &str) -> Result<()> {
        let line = format!("remove_bridge {bridge}");
        let bridge = bridge.to_owned();
        let remove = move |state: &mut State| {
            let mut instances = state.instances.values();
            if instances.any(|stored| stored.bridges.contains(&bridge)) {
                return Err(Error::Server {
                    code: 400,
                    message: "The network is currently in use".into(),
                });
            }
            state.bridges.remove(&bridge);
            Ok(())
        };
        self.write(line, remove).await
    }
}

/// The inside of one instance of a [`FakeBackend`].
pub(crate) struct FakeGuest<'a> {
    backend: &'a FakeBackend,
    name: &'a Name,
}

impl FakeGuest<'_> {
    async fn files<T>(
        &self,
        call: &str,
        path: &str,
        effect: impl FnOnce(&mut Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        assert!(path.starts_with('/'), "{path:?} is not absolute");
        let name = self.name.clone();
        let line = format!("{call} {name} {path}");
        let effect = move |state: &mut State| effect(state.with_files(&name)?);
        self.backend.call(line, effect).await
    }
}

fn missing(path: &str) -> Error {
    Error::NotFound(Subject::Path(path.to_owned()))
}

fn refused(path: &str, reason: &str) -> Error {
    Error::Server {
        code: 0,
        message: format!("{path}: {reason}"),
    }
}

fn require_parent(files: &Files, path: &str) -> Result<()> {
    let (parent, _) = path.rsplit_once('/').unwrap_or_default();
    let parent = if parent.is_empty() { "/" } else { parent };
    match files.get(parent) {
        Some(File::Directory) => Ok(()),
        Some(_) => Err(refused(parent, "not a directory")),
        None => Err(missing(path)),
    }
}

/// The path behind the symlinks of the last component.
fn follow(files: &Files, path: &str) -> Result<String> {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let Some(File::Symlink(target)) = files.get(&path) else {
            return Ok(path);
        };
        path = match (target.starts_with('/'), path.rsplit_once('/')) {
            (false, Some((parent, _))) => format!("{parent}/{target}"),
            _ => target.clone(),
        };
    }
    Err(refused(&path, "too many levels of symbolic links"))
}

#[async_trait]
impl Guest for FakeGuest<'_> {
    async fn exec(&self, request: &ExecRequest, mut io: ExecIo) -> Result<ExitStatus> {
        assert!(!request.argv.is_empty(), "argv is empty");
        let name = self.name.clone();
        let line = format!("exec {name} {}", request.argv.join(" "));
        let running = move |state: &mut State| match state.get(&name)?.instance.status {
            Status::Running => Ok(state.handlers.clone()),
            _ => Err(stopped(&name)),
        };
        let handlers = self.backend.call(line, running).await?;
        let mut stdin = Vec::new();
        let read = io.stdin.read_to_end(&mut stdin).await;
        read.map_err(|error| Error::io("reading stdin", error))?;
        let command = Command {
            pixel: self.name.as_str(),
            request,
            stdin: &stdin,
        };
        let answer = handlers.iter().rev().find_map(|handler| handler(&command));
        let Some(answer) = answer else {
            panic!("no answer to {:?} in {}", request.argv, self.name);
        };
        let (out, err) = (&answer.stdout, &answer.stderr);
        let written = tokio::join!(io.stdout.write_all(out), io.stderr.write_all(err));
        let flushed = tokio::join!(io.stdout.flush(), io.stderr.flush());
        // The writer's own failures end the streams, not the command.
        drop((written, flushed));
        Ok(ExitStatus(answer.status))
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let wanted = path.to_owned();
        let read = move |files: &mut Files| match files.get(&follow(files, &wanted)?) {
            Some(File::Regular { content, .. }) => {
                let length =
                    usize::try_from(limit).map_or(content.len(), |it| it.min(content.len()));
                Ok(content[..length].to_vec())
            }
            Some(_) => Err(refused(&wanted, "is a directory")),
            None => Err(missing(&wanted)),
        };
        self.files("read_file", path, read).await
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        let file = file.clone();
        let path = file.path.clone();
        let write = move |files: &mut Files| {
            let path = follow(files, &file.path)?;
            require_parent(files, &path)?;
            if matches!(files.get(&path), Some(File::Directory)) {
                return Err(refused(&path, "is a directory"));
            }
            let new = File::Regular {
                content: file.content,
                mode: file.mode,
                owner: file.owner,
            };
            files.insert(path, new);
            Ok(())
        };
        self.files("write_file", &path, write).await
    }

    async fn write_chunks(&self, path: &str, mut chunks: mpsc::Receiver<Bytes>) -> Result<()> {
        let mut new = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            assert!(chunk.len() <= super::MAX_CHUNK, "a chunk is too large");
            new.extend_from_slice(&chunk);
        }
        let wanted = path.to_owned();
        let write = move |files: &mut Files| match files.get_mut(&wanted) {
            Some(File::Regular { content, .. }) => {
                let rest = content.split_off(new.len().min(content.len()));
                *content = [new, rest].concat();
                Ok(())
            }
            Some(_) => Err(refused(&wanted, "is not a file")),
            None => Err(missing(&wanted)),
        };
        self.files("write_chunks", path, write).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (source, target) = (from.to_owned(), to.to_owned());
        let rename = move |files: &mut Files| {
            require_parent(files, &target)?;
            if matches!(files.get(&target), Some(File::Directory)) {
                return Err(refused(&target, "is a directory"));
            }
            let file = files.remove(&source).ok_or_else(|| missing(&source))?;
            files.insert(target, file);
            Ok(())
        };
        self.files("rename", from, rename).await
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        let wanted = path.to_owned();
        let remove = move |files: &mut Files| {
            if matches!(files.get(&wanted), Some(File::Directory)) {
                return Err(refused(&wanted, "is a directory"));
            }
            files.remove(&wanted);
            Ok(())
        };
        self.files("remove_file", path, remove).await
    }

    async fn make_dir(&self, path: &str) -> Result<()> {
        let wanted = path.to_owned();
        let make = move |files: &mut Files| {
            require_parent(files, &wanted)?;
            match files.get(&follow(files, &wanted)?) {
                Some(File::Directory) => Ok(()),
                Some(_) => Err(refused(&wanted, "file exists")),
                None => {
                    files.insert(wanted, File::Directory);
                    Ok(())
                }
            }
        };
        self.files("make_dir", path, make).await
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let (wanted, target) = (path.to_owned(), target.to_owned());
        let link = move |files: &mut Files| {
            require_parent(files, &wanted)?;
            files.entry(wanted).or_insert(File::Symlink(target));
            Ok(())
        };
        self.files("symlink", path, link).await
    }

    async fn read_link(&self, path: &str) -> Result<String> {
        let wanted = path.to_owned();
        let read = move |files: &mut Files| match files.get(&wanted) {
            Some(File::Symlink(target)) => Ok(target.clone()),
            Some(_) => Err(refused(&wanted, "is not a symbolic link")),
            None => Err(missing(&wanted)),
        };
        self.files("read_link", path, read).await
    }

    async fn list_dir(&self, path: &str) -> Result<Vec<String>> {
        let wanted = path.to_owned();
        let list = move |files: &mut Files| {
            match files.get(&wanted) {
                Some(File::Directory) => {}
                Some(_) => return Err(refused(&wanted, "not a directory")),
                None => return Err(missing(&wanted)),
            }
            let prefix = format!("{}/", wanted.trim_end_matches('/'));
            let names = files.keys().filter_map(|path| path.strip_prefix(&prefix));
            let direct = names.filter(|name| !name.is_empty() && !name.contains('/'));
            Ok(direct.map(str::to_owned).collect())
        };
        self.files("list_dir", path, list).await
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        let wanted = path.to_owned();
        let stat = move |files: &mut Files| {
            let (kind, mode, owner, size) = match files.get(&wanted) {
                Some(File::Regular {
                    content,
                    mode,
                    owner,
                }) => (FileKind::File, *mode, *owner, content.len() as u64),
                Some(File::Directory) => (FileKind::Directory, 0o755, Ids::ROOT, 0),
                Some(File::Symlink(_)) => (FileKind::Symlink, 0o777, Ids::ROOT, 0),
                None => return Err(missing(&wanted)),
            };
            Ok(FileStat {
                kind,
                mode,
                owner,
                size,
            })
        };
        self.files("stat", path, stat).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn checkpoints_restore_files_and_properties() {
        let backend = FakeBackend::new();
        let a = name("a");
        backend.add("a");
        backend.put_file("a", "/srv/x", "old");
        backend.add_checkpoint("a", "ready");
        backend.put_file("a", "/srv/x", "new");
        let changes = Properties::from([("base".into(), "dev".into())]);
        backend.set_properties(&a, &changes).await.unwrap();
        let missing = backend.restore(&a, &"none".parse().unwrap()).await;
        assert!(missing.unwrap_err().is_not_found());
        backend
            .restore(&a, &"ready".parse().unwrap())
            .await
            .unwrap();
        assert_eq!(backend.file("a", "/srv/x").unwrap(), b"old");
        assert_eq!(backend.property("a", "base"), None);
        let again = backend
            .checkpoint(&a, &"ready".parse().unwrap(), None)
            .await;
        assert!(matches!(again, Err(Error::AlreadyExists(_))));
    }

    #[tokio::test]
    async fn faults_hit_the_nth_matching_call() {
        let backend = FakeBackend::new();
        let (a, b) = (name("a"), name("b"));
        backend.add("a");
        backend.add("b");
        backend.fail_at("stop", 2);
        backend.lose_answer_at("stop b", 2);
        backend.stop(&a, Duration::ZERO).await.unwrap();
        assert!(backend.stop(&b, Duration::ZERO).await.is_err());
        assert_eq!(backend.instance("b").unwrap().status, Status::Running);
        let lost = backend.stop(&b, Duration::ZERO).await;
        assert!(matches!(lost, Err(Error::Unreachable { .. })));
        assert_eq!(backend.instance("b").unwrap().status, Status::Stopped);
        assert_eq!(backend.take_calls(), ["stop a", "stop b", "stop b"]);
    }

    #[tokio::test]
    async fn stalled_call_takes_effect_by_wait_idle() {
        let backend = FakeBackend::new();
        let a = name("a");
        backend.add("a");
        backend.stall_at("destroy", 1);
        let never = tokio::time::timeout(Duration::from_millis(1), backend.destroy(&a));
        assert!(never.await.is_err());
        assert_eq!(backend.names(), ["a"]);
        backend.wait_idle(&a).await.unwrap();
        assert!(backend.names().is_empty());
    }

    #[tokio::test]
    async fn commands_need_a_running_pixel_and_a_handler() {
        let backend = FakeBackend::new();
        let a = name("a");
        backend.add("a");
        backend.on_command("true", Answer::exit(0));
        backend.on_command("cat /etc/x", "content");
        let guest = backend.guest(&a);
        let output = guest.output(&ExecRequest::root(["cat", "/etc/x"])).await;
        assert_eq!(output.unwrap().stdout, b"content");
        backend.edit("a", |instance| instance.status = Status::Stopped);
        let stopped = guest.output(&ExecRequest::root(["true"])).await;
        assert!(matches!(stopped, Err(Error::WrongState { .. })));
    }

    #[tokio::test]
    #[should_panic(expected = "no answer to [\"rm\", \"-rf\"] in a")]
    async fn unknown_command_panics_with_its_argv() {
        let backend = FakeBackend::new();
        backend.add("a");
        let a = name("a");
        let _ = backend
            .guest(&a)
            .output(&ExecRequest::root(["rm", "-rf"]))
            .await;
    }
}
