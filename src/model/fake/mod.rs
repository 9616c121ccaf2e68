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

mod backend;
mod calls;
mod guest;
mod state;

use std::sync::{Arc, Mutex, MutexGuard};

use self::state::{Entry, State, new_files};
use super::{GuestFile, Instance, Name, Output, Properties, Result, Status, lock};

/// The only image of the fake server.
pub(crate) const IMAGE: &str = "debian/13";

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

    /// Gives no access to the files of stopped instances.
    pub fn hide_stopped_files(&self) {
        self.lock().hides_stopped_files = true;
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

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn not_in_the_fake<T>(call: &str) -> Result<T> {
    panic!("the fake server has no {call}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Backend, Error, ExecRequest};

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
