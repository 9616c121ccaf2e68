//! The instances of the fake server with their files and checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::calls::Calls;
use super::pixel;
use crate::model::{
    Attachment, Checkpoint, Error, GuestFile, InitScript, Instance, Label, Name, Output,
    Properties, Result, Status, Subject,
};

type Handler = dyn Fn(&str, &str) -> Option<Output> + Send + Sync;

#[derive(Clone)]
pub(super) enum Entry {
    File(GuestFile),
    Directory,
    Symlink(String),
}

pub(super) type Files = BTreeMap<String, Entry>;

pub(super) struct Stored {
    pub instance: Instance,
    pub files: Files,
    pub checkpoints: Vec<(Checkpoint, Files)>,
}

impl Stored {
    pub fn position(&self, label: &Label) -> Result<usize> {
        let missing = || Error::NotFound(Subject::checkpoint(&self.instance.name, label));
        let mut labels = self.checkpoints.iter().map(|(it, _)| &it.label);
        labels.position(|it| it == label).ok_or_else(missing)
    }

    pub fn merge(&mut self, changes: Properties) {
        let properties = &mut self.instance.properties;
        properties.extend(changes);
        properties.retain(|_, value| !value.is_empty());
    }
}

#[derive(Default)]
pub(super) struct State {
    /// Creation time of the newest instance or checkpoint, as a counter.
    clock: i64,
    pub instances: BTreeMap<Name, Stored>,
    pub calls: Calls,
    pub handlers: Vec<Arc<Handler>>,
    pub hides_stopped_files: bool,
}

impl State {
    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    pub fn get(&mut self, name: &Name) -> Result<&mut Stored> {
        let missing = || Error::NotFound(Subject::pixel(name));
        self.instances.get_mut(name).ok_or_else(missing)
    }

    /// Adds a stopped instance whose first-boot script will run.
    pub fn insert(
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

    pub fn checkpoint(&mut self, name: &Name, label: Label) -> Result<()> {
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

/// The directories of a new instance without files.
pub(super) fn new_files() -> Files {
    let paths = [
        "/", "/etc", "/home", "/root", "/tmp", "/usr", "/var", "/var/lib",
    ];
    paths.map(|path| (path.into(), Entry::Directory)).into()
}
