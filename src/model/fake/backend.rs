//! Implements [`Backend`].

use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;

use super::guest::FakeGuest;
use super::state::{State, Stored, new_files};
use super::{FakeBackend, IMAGE, not_in_the_fake};
use crate::model::{
    Backend, Checkpoint, CreateSpec, Error, Event, ForkSpec, Guest, InitScript, Instance,
    IsolatedNetwork, Label, Name, Properties, Result, Status, Subject, Usage,
};

#[async_trait]
impl Backend for FakeBackend {
    fn can_access_stopped_files(&self) -> bool {
        !self.lock().hides_stopped_files
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
            for effect in std::mem::take(&mut state.calls.stalled) {
                effect(state);
            }
            Ok(())
        };
        self.call(format!("wait_idle {name}"), finish).await
    }

    async fn wait_until_unchanged(&self, name: &Name) -> Result<()> {
        self.wait_idle(name).await
    }

    async fn close(&self, _: Duration) {}

    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a> {
        Box::new(FakeGuest {
            backend: self,
            name,
        })
    }
}
