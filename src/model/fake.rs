//! A strict in-memory backend and guest for unit tests.
//!
//! [`FakeBackend`] stores instances, checkpoints and files and returns the
//! errors of a real server: a name in use, a missing pixel, label, image or
//! bridge, a command in a stopped pixel. A command without a handler panics
//! with its argv, and so does an unsupported call. All clones of a backend
//! share one state.
//!
//! Every call is recorded as one line of [`FakeBackend::calls`], for example
//! `start a`, `checkpoint a:ready` or `exec a sh -c …`. A call yields once
//! before its change, so concurrent calls interleave. A test injects a fault
//! into calls whose line starts with a given text:
//!
//! ```ignore
//! let backend = FakeBackend::with_pixels(["a"]);
//! backend.fail_at("start a", 1);       // the call fails and changes nothing
//! backend.lose_answer_at("create", 2); // the change is made, the answer is lost
//! backend.stall_at("fork", 1);         // no answer; `wait_idle` makes the change
//! ```

mod guest;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{
    Attachment, Backend, Checkpoint, CreateSpec, Error, Event, ExecIo, ExecRequest, ExitStatus,
    FileKind, FileStat, ForkSpec, Guest, GuestFile, Ids, InitScript, Instance, IsolatedNetwork,
    Label, Name, Output, Properties, Result, STOPPED, Status, Subject, Usage, lock,
};

/// The only image of the fake server.
pub(crate) const IMAGE: &str = "debian/13";

type Effect = Box<dyn FnOnce(&mut State) + Send>;
type Handler = dyn Fn(&str, &str) -> Option<Output> + Send + Sync;

/// A running pixel.
pub fn pixel(properties: Properties) -> Instance {
    Instance {
        name: "a".parse().unwrap(),
        status: Status::Running,
        addresses: Vec::new(),
        created_at: 0,
        started_once: true,
        image: None,
        cpu: None,
        memory: None,
        disk: None,
        privileged: false,
        mac: None,
        isolated_bridge: None,
        properties,
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Refuse,
    LoseAnswer,
    Stall,
}

#[derive(Clone)]
enum Entry {
    File(GuestFile),
    Directory,
    Symlink(String),
}

type Files = BTreeMap<String, Entry>;

struct Stored {
    instance: Instance,
    files: Files,
    checkpoints: Vec<(Checkpoint, Files)>,
}

impl Stored {
    fn position(&self, label: &Label) -> Result<usize> {
        let missing = || Error::NotFound(Subject::checkpoint(&self.instance.name, label));
        let mut labels = self.checkpoints.iter().map(|(it, _)| &it.label);
        labels.position(|it| it == label).ok_or_else(missing)
    }

    fn merge(&mut self, changes: Properties) {
        let properties = &mut self.instance.properties;
        properties.extend(changes);
        properties.retain(|_, value| !value.is_empty());
    }
}

#[derive(Default)]
struct State {
    /// Creation time of the newest instance or checkpoint, as a counter.
    clock: i64,
    instances: BTreeMap<Name, Stored>,
    calls: Vec<String>,
    /// Start of a call's line, and the number of such calls up to and including
    /// the faulty call.
    faults: Vec<(String, usize, Fault)>,
    /// Changes of stalled calls that the server has not made yet.
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

    /// Adds a stopped instance whose first-boot script will run.
    fn insert(
        &mut self,
        name: Name,
        network: Option<Attachment>,
        properties: Properties,
        files: Files,
    ) -> Result<InitScript> {
        if self.instances.contains_key(&name) {
            return Err(Error::AlreadyExists(Subject::pixel(name)));
        }
        if let Some(Attachment::IsolatedBridge(bridge) | Attachment::Gateway { bridge, .. }) =
            network
        {
            return Err(Error::NotFound(Subject::Network(bridge)));
        }
        let mut stored = Stored {
            instance: Instance {
                name: name.clone(),
                status: Status::Stopped,
                created_at: self.tick(),
                started_once: false,
                ..pixel(Properties::new())
            },
            files,
            checkpoints: Vec::new(),
        };
        stored.merge(properties);
        self.instances.insert(name, stored);
        Ok(InitScript::Applied)
    }

    fn checkpoint(&mut self, name: &Name, label: Label) -> Result<()> {
        let created_at = self.tick();
        let stored = self.get(name)?;
        if stored.position(&label).is_ok() {
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
}

/// An in-memory server; see the module documentation.
#[derive(Clone, Default)]
pub(crate) struct FakeBackend(Arc<Mutex<State>>);

impl std::fmt::Debug for FakeBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.calls()).finish()
    }
}

impl FakeBackend {
    /// Creates a server with these running pixels, without recording a call.
    pub fn with_pixels<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let backend = Self::default();
        for name in names {
            let (key, properties) = (name.parse().unwrap(), Properties::new());
            let added = backend.lock().insert(key, None, properties, new_files());
            added.unwrap();
            backend.edit(name, |instance| {
                instance.status = Status::Running;
                instance.started_once = true;
            });
        }
        backend
    }

    /// Changes the record of an instance without recording a call.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Instance)) {
        change(&mut self.lock().get(&name.parse().unwrap()).unwrap().instance);
    }

    pub fn property(&self, name: &str, key: &str) -> Option<String> {
        let mut state = self.lock();
        let stored = state.get(&name.parse().unwrap()).ok()?;
        stored.instance.properties.get(key).cloned()
    }

    /// The names of all instances.
    pub fn names(&self) -> Vec<String> {
        self.lock().instances.keys().map(Name::to_string).collect()
    }

    /// The labels of a pixel's checkpoints, oldest first.
    pub fn labels(&self, name: &str) -> Vec<String> {
        let mut state = self.lock();
        let stored = state.get(&name.parse().unwrap()).unwrap();
        let labels = stored
            .checkpoints
            .iter()
            .map(|(it, _)| it.label.to_string());
        labels.collect()
    }

    /// Adds a checkpoint of the current state without recording a call.
    pub fn add_checkpoint(&self, name: &str, label: &str) {
        let (name, label) = (name.parse().unwrap(), label.parse().unwrap());
        self.lock().checkpoint(&name, label).unwrap();
    }

    /// The content of a file; records no call.
    pub fn file(&self, name: &str, path: &str) -> Option<Vec<u8>> {
        let mut state = self.lock();
        match state.get(&name.parse().unwrap()).unwrap().files.get(path)? {
            Entry::File(file) => Some(file.content.clone()),
            _ => None,
        }
    }

    /// Adds a file and its parent directories without recording a call.
    pub fn put_file(&self, name: &str, path: &str, content: &str) {
        let mut state = self.lock();
        let files = &mut state.get(&name.parse().unwrap()).unwrap().files;
        for (end, _) in path.match_indices('/').skip(1) {
            files.insert(path[..end].to_owned(), Entry::Directory);
        }
        let file = Entry::File(GuestFile::root(path, 0o644, content));
        files.insert(path.to_owned(), file);
    }

    /// Adds a handler for commands. It receives the name of the pixel and the
    /// argv joined by spaces. The newest handler is asked first; `None` passes
    /// the command to the next handler.
    pub fn on_exec(&self, handler: impl Fn(&str, &str) -> Option<Output> + Send + Sync + 'static) {
        self.lock().handlers.push(Arc::new(handler));
    }

    /// All recorded calls.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// Returns the recorded calls and clears the record.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }

    /// The n-th matching call fails and changes nothing.
    pub fn fail_at(&self, call: &str, n: usize) {
        self.add_fault(call, n, Fault::Refuse);
    }

    /// The n-th matching call changes the server but returns
    /// `Error::Unreachable`, because the connection breaks before the answer.
    pub fn lose_answer_at(&self, call: &str, n: usize) {
        self.add_fault(call, n, Fault::LoseAnswer);
    }

    /// The n-th matching call never returns. The server makes the change during
    /// the next [`Backend::wait_idle`].
    pub fn stall_at(&self, call: &str, n: usize) {
        self.add_fault(call, n, Fault::Stall);
    }

    fn add_fault(&self, call: &str, n: usize, fault: Fault) {
        assert!(n > 0, "calls are counted from 1");
        self.lock().faults.push((call.to_owned(), n, fault));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Records the call and returns its fault.
    fn note(&self, line: String) -> Option<Fault> {
        let mut state = self.lock();
        let mut due = None;
        state.faults.retain_mut(|(call, countdown, fault)| {
            *countdown -= usize::from(line.starts_with(&*call));
            if *countdown == 0 {
                due = Some(*fault);
            }
            *countdown > 0
        });
        state.calls.push(line);
        due
    }

    async fn call<T>(
        &self,
        line: String,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fault = self.note(line);
        tokio::task::yield_now().await;
        match fault {
            None => effect(&mut self.lock()),
            Some(Fault::Refuse) => Err(Error::Server {
                code: 500,
                message: "injected failure".into(),
            }),
            Some(Fault::LoseAnswer) => {
                drop(effect(&mut self.lock()));
                Err(Error::Unreachable {
                    endpoint: "the fake server".into(),
                    reason: "the connection broke".into(),
                })
            }
            Some(Fault::Stall) => {
                let late = move |state: &mut State| drop(effect(state));
                self.lock().stalled.push(Box::new(late));
                std::future::pending().await
            }
        }
    }

    /// Runs a call that needs only this pixel.
    async fn call_on<T>(
        &self,
        line: String,
        name: &Name,
        effect: impl FnOnce(&mut Stored) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = name.clone();
        self.call(line, move |state| effect(state.get(&name)?))
            .await
    }
}

/// The directories of a new instance without files.
fn new_files() -> Files {
    let paths = [
        "/", "/etc", "/home", "/root", "/tmp", "/usr", "/var", "/var/lib",
    ];
    paths.map(|path| (path.into(), Entry::Directory)).into()
}

fn not_in_the_fake<T>(call: &str) -> Result<T> {
    panic!("the fake server has no {call}")
}

#[async_trait]
impl Backend for FakeBackend {
    fn can_access_stopped_files(&self) -> bool {
        true
    }

    async fn image_aliases(&self) -> Result<Vec<String>> {
        not_in_the_fake("image_aliases")
    }

    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork> {
        not_in_the_fake("isolated_network")
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InitScript> {
        let (line, spec) = (format!("create {}", spec.name), spec.clone());
        let create = move |state: &mut State| match spec.image.as_str() {
            IMAGE => state.insert(spec.name, Some(spec.network), spec.properties, new_files()),
            _ => Err(Error::NotFound(Subject::Image(spec.image))),
        };
        self.call(line, create).await
    }

    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript> {
        let line = format!("fork {} {}", spec.from, spec.name);
        let spec = spec.clone();
        let fork = move |state: &mut State| {
            let source = state.get(&spec.from.pixel)?;
            let (properties, files) = match &spec.from.label {
                None => (&source.instance.properties, &source.files),
                Some(label) => {
                    let (checkpoint, files) = &source.checkpoints[source.position(label)?];
                    (&checkpoint.properties, files)
                }
            };
            let (mut properties, files) = (properties.clone(), files.clone());
            properties.extend(spec.properties);
            state.insert(spec.name, spec.network, properties, files)
        };
        self.call(line, fork).await
    }

    async fn start(&self, name: &Name) -> Result<()> {
        let start = |stored: &mut Stored| {
            stored.instance.status = Status::Running;
            stored.instance.started_once = true;
            Ok(())
        };
        self.call_on(format!("start {name}"), name, start).await
    }

    async fn stop(&self, name: &Name, _: Duration) -> Result<()> {
        let stop = |stored: &mut Stored| {
            stored.instance.status = Status::Stopped;
            Ok(())
        };
        self.call_on(format!("stop {name}"), name, stop).await
    }

    async fn destroy(&self, name: &Name) -> Result<()> {
        let (line, name) = (format!("destroy {name}"), name.clone());
        let destroy = move |state: &mut State| {
            state.get(&name)?;
            state.instances.remove(&name);
            Ok(())
        };
        self.call(line, destroy).await
    }

    async fn get(&self, name: &Name) -> Result<Instance> {
        let get = |stored: &mut Stored| Ok(stored.instance.clone());
        self.call_on(format!("get {name}"), name, get).await
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        let instance = |stored: &Stored| stored.instance.clone();
        let list = move |state: &mut State| Ok(state.instances.values().map(instance).collect());
        self.call("list".into(), list).await
    }

    async fn address(&self, _: &Name) -> Result<Option<Ipv4Addr>> {
        not_in_the_fake("address")
    }

    async fn usage(&self, _: &Name) -> Result<Usage> {
        not_in_the_fake("usage")
    }

    async fn watch(&self, _: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
        not_in_the_fake("watch")
    }

    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()> {
        let mut line = format!("set_properties {name}");
        for (key, value) in properties {
            line.push_str(&format!(" {key}={value}"));
        }
        let changes = properties.clone();
        let set = |stored: &mut Stored| {
            stored.merge(changes);
            Ok(())
        };
        self.call_on(line, name, set).await
    }

    async fn checkpoint(&self, name: &Name, label: &Label, _: Option<Duration>) -> Result<()> {
        let line = format!("checkpoint {name}:{label}");
        let (name, label) = (name.clone(), label.clone());
        self.call(line, move |state| state.checkpoint(&name, label))
            .await
    }

    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        let list = |stored: &mut Stored| {
            let all = stored.checkpoints.iter();
            Ok(all.map(|(checkpoint, _)| checkpoint.clone()).collect())
        };
        self.call_on(format!("checkpoints {name}"), name, list)
            .await
    }

    async fn restore(&self, name: &Name, label: &Label) -> Result<()> {
        let (line, label) = (format!("restore {name}:{label}"), label.clone());
        let restore = move |stored: &mut Stored| {
            let (checkpoint, files) = &stored.checkpoints[stored.position(&label)?];
            stored.instance.properties = checkpoint.properties.clone();
            stored.files = files.clone();
            Ok(())
        };
        self.call_on(line, name, restore).await
    }

    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        let (line, label) = (format!("delete_checkpoint {name}:{label}"), label.clone());
        let delete = move |stored: &mut Stored| {
            stored.checkpoints.remove(stored.position(&label)?);
            Ok(())
        };
        self.call_on(line, name, delete).await
    }

    fn has_sent_writes(&self) -> bool {
        let is_read = |line: &String| {
            let verb = line.split(' ').next().unwrap_or_default();
            let reads = [
                "get",
                "list",
                "checkpoints",
                "wait_idle",
                "read_file",
                "read_link",
                "stat",
            ];
            reads.contains(&verb)
        };
        !self.calls().iter().all(is_read)
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
        Box::new(guest::FakeGuest {
            backend: self,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_that_a_server_refuses_fail() {
        let backend = FakeBackend::with_pixels(["a"]);
        let (a, none): (Name, Name) = ("a".parse().unwrap(), "none".parse().unwrap());
        let (ready, missing) = ("ready".parse().unwrap(), "missing".parse().unwrap());
        backend.add_checkpoint("a", "ready");
        let again = backend.checkpoint(&a, &ready, None).await;
        assert!(matches!(again, Err(Error::AlreadyExists(_))));
        let restored = backend.restore(&a, &missing).await;
        assert!(restored.unwrap_err().is_not_found());
        backend.put_file("a", "/srv/x", "new");
        backend.restore(&a, &ready).await.unwrap();
        assert_eq!(backend.file("a", "/srv/x"), None);
        let file = GuestFile::root("/srv/x", 0o644, "no directory");
        let written = backend.guest(&a).write_file(&file).await;
        assert!(written.unwrap_err().is_not_found());
        assert!(backend.start(&none).await.unwrap_err().is_not_found());
        backend.stop(&a, Duration::ZERO).await.unwrap();
        let stopped = backend.guest(&a).output(&ExecRequest::root(["true"])).await;
        assert!(matches!(stopped, Err(Error::WrongState { .. })));
    }

    #[tokio::test]
    async fn faults_hit_the_nth_matching_call() {
        let backend = FakeBackend::with_pixels(["a", "b"]);
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        backend.fail_at("stop", 2);
        backend.lose_answer_at("stop b", 2);
        backend.stop(&a, Duration::ZERO).await.unwrap();
        assert!(backend.stop(&b, Duration::ZERO).await.is_err());
        backend.edit("b", |b| assert_eq!(b.status, Status::Running));
        let lost = backend.stop(&b, Duration::ZERO).await;
        assert!(matches!(lost, Err(Error::Unreachable { .. })));
        backend.edit("b", |b| assert_eq!(b.status, Status::Stopped));
        assert_eq!(backend.take_calls(), ["stop a", "stop b", "stop b"]);
    }

    #[tokio::test]
    #[should_panic(expected = "no answer to [\"rm\", \"-rf\"] in a")]
    async fn unknown_command_panics_with_its_argv() {
        let backend = FakeBackend::with_pixels(["a"]);
        let a = "a".parse().unwrap();
        let command = ExecRequest::root(["rm", "-rf"]);
        let _ = backend.guest(&a).output(&command).await;
    }
}
