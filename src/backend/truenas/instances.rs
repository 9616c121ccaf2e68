//! Instances: create, state changes, listing, what is noted on them.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::Failure;
use super::job::{self, Task};
use super::nic;
use super::properties::{self, Environment, Note};
use super::release::Containers;
use super::wire::{Interface, Lxc, Summary, Virt, VirtConfig};
use super::{Truenas, lxc};
use crate::retry::{self, Next};
use crate::sandbox::{
    Attachment, CreateSpec, Error, FirstBoot, Instance, Limits, Name, Properties, Result, Status,
    Subject, Taken,
};

/// The server gives an image's download a quarter of an hour.
const CREATE: Duration = Duration::from_secs(17 * 60);
const STATE: Duration = Duration::from_secs(120);
/// The server itself gives up a stop after five minutes.
const LONGEST_GRACE: Duration = Duration::from_secs(240);
/// A disk may be busy just after a stop.
const BUSY: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(60);
/// The smallest memory the server takes.
const LEAST: u64 = 32 << 20;

/// One instance as either API has it.
#[derive(Debug)]
pub(super) enum Found {
    Virt(Box<Virt>),
    Lxc(Lxc),
}

impl Truenas {
    /// One instance; `Error::NotFound` only when the server is fit to tell.
    pub(super) async fn find(&self, name: &Name) -> Result<Found> {
        let release = self.rpc.release().await.map_err(Failure::plain)?;
        let table = release.table;
        let only = json!([["name", "=", name.instance()]]);
        let missing = || Error::NotFound(Subject::pixel(name));
        match table.containers {
            Containers::Virt => {
                let wish = json!([only, {"extra": {"raw": true}}]);
                let found: Vec<Virt> = self.read(table.query, wish).await?;
                match found.into_iter().next() {
                    Some(found) => Ok(Found::Virt(Box::new(found))),
                    None => {
                        self.initialized().await?;
                        Err(missing())
                    }
                }
            }
            Containers::Lxc => {
                let found: Vec<Lxc> = self.read(table.query, json!([only, {}])).await?;
                found.into_iter().next().map(Found::Lxc).ok_or_else(missing)
            }
        }
    }

    pub(super) async fn find_virt(&self, name: &Name) -> Result<Virt> {
        match self.find(name).await? {
            Found::Virt(found) => Ok(*found),
            Found::Lxc(_) => Err(self.refusal("this").await),
        }
    }

    /// The error of what `container.*` cannot do.
    async fn refusal(&self, operation: &str) -> Error {
        match self.needs_virt(operation).await {
            Err(error) => error,
            Ok(()) => Error::Protocol("the server changed its release".into()),
        }
    }

    pub(super) async fn needs_virt(&self, operation: &str) -> Result<()> {
        let release = self.rpc.release().await.map_err(Failure::plain)?;
        release.needs_virt(operation).map_err(Failure::plain)
    }

    /// A service that is not up yet lists nothing, without an error.
    async fn initialized(&self) -> Result<()> {
        let config: VirtConfig = self.read("virt.global.config", json!([])).await?;
        match config.state.as_deref() {
            Some("INITIALIZED") => Ok(()),
            state => Err(Error::WrongState {
                subject: Subject::Other("the containers service of TrueNAS".into()),
                state: state.unwrap_or("not set up").to_lowercase(),
            }),
        }
    }

    pub(super) async fn make(&self, spec: &CreateSpec) -> Result<Taken> {
        self.needs_virt("making a pixel").await?;
        self.attachable(&spec.network)?;
        // Without a key there would be no way into the pixel.
        self.ssh.public_key().await?;
        let device = self.device().await?;
        let image = spec.image.strip_prefix("images:").unwrap_or(&spec.image);
        let mut environment = Environment::new();
        properties::merge(&mut environment, &spec.properties)?;
        Note::Contact.set(&mut environment, properties::PENDING);
        self.note_birth(&mut environment, &spec.name, &spec.first_boot);
        let wish = Wish {
            image,
            limits: &spec.limits,
            environment,
            device,
        };
        self.create_instance(&spec.name, wish).await?;
        Ok(Taken::Yes)
    }

    /// What tells this instance from its source, for the script that runs at
    /// its first boot.
    pub(super) fn note_birth(&self, environment: &mut Environment, name: &Name, first: &FirstBoot) {
        let id = first.variables.iter().find(|(key, _)| key == "id");
        let id = id.map_or_else(|| self.rpc.id(), |(_, value)| value.clone());
        Note::Id.set(environment, &id);
        Note::Name.set(environment, &name.instance());
        self.keep_script(name, &first.script);
    }

    pub(super) fn attachable(&self, network: &Attachment) -> Result<()> {
        match network {
            Attachment::Configured => Ok(()),
            Attachment::Segment(_) | Attachment::Gateway { .. } => Err(no_segments()),
        }
    }

    pub(super) async fn device(&self) -> Result<Value> {
        let interfaces: Vec<Interface> = self.read("interface.query", json!([])).await?;
        let summary: Summary = self.read("network.general.summary", json!([])).await?;
        nic::choose(&self.options.nic, &interfaces, &summary)
    }

    pub(super) async fn create_instance(&self, name: &Name, mut wish: Wish<'_>) -> Result<()> {
        Note::Image.set(&mut wish.environment, wish.image);
        let mut body = json!({
            "name": name.instance(),
            "image": wish.image,
            "instance_type": "CONTAINER",
            // True would start it at once.
            "autostart": false,
            "environment": wish.environment,
            "devices": [wish.device],
        });
        if let Some(cpu) = &wish.limits.cpu {
            body["cpu"] = json!(cpu);
        }
        if let Some(memory) = wish.limits.memory {
            if memory < LEAST {
                return Err(Error::Invalid(
                    "TrueNAS takes no less than 32 MiB of memory".into(),
                ));
            }
            body["memory"] = json!(memory);
        }
        if let Some(pool) = &self.options.pool {
            body["storage_pool"] = json!(pool);
        }
        let task = Task {
            method: "virt.instance.create",
            params: json!([body]),
            doing: "creating the pixel",
            limit: CREATE,
        };
        match job::run(&self.rpc, &task).await {
            Ok(_) => Ok(()),
            // The rules for names are ours and kept: it can only be taken.
            Err(Failure::Refused(fault)) if fault.is_about("virt_instance_create.name") => {
                Err(Error::AlreadyExists(Subject::pixel(name)))
            }
            Err(Failure::Refused(fault)) if fault.is_about("virt_instance_create.storage_pool") => {
                let pool = self.options.pool.clone().unwrap_or_default();
                Err(Error::NotFound(Subject::Pool(pool)))
            }
            Err(failure) => Err(failure.about(Subject::pixel(name))),
        }
    }

    pub(super) async fn run_state(
        &self,
        name: &Name,
        method: &'static str,
        params: Value,
        doing: &str,
        limit: Duration,
    ) -> Result<(), Failure> {
        let task = Task {
            method,
            params,
            doing,
            limit,
        };
        let outcome = job::run(&self.rpc, &task).await.map(drop);
        self.ssh.forget_session(&name.instance()).await;
        outcome
    }

    /// Starts the instance and nothing more.
    pub(super) async fn boot(&self, name: &Name) -> Result<()> {
        let found = self.find(name).await?;
        if found.status() == Status::Running {
            return Ok(());
        }
        let outcome = match &found {
            Found::Virt(_) => {
                let params = json!([name.instance()]);
                let doing = "starting the pixel";
                self.run_state(name, "virt.instance.start", params, doing, STATE)
                    .await
            }
            Found::Lxc(lxc) => lxc::start(&self.rpc, lxc).await,
        };
        self.reached(name, outcome, Status::Running).await
    }

    pub(super) async fn halt(&self, name: &Name, grace: Duration) -> Result<()> {
        let found = self.find(name).await?;
        if found.status() == Status::Stopped {
            return Ok(());
        }
        let grace = grace.min(LONGEST_GRACE);
        let outcome = match &found {
            Found::Virt(_) => {
                let ask = async |how: Value, limit| {
                    let params = json!([name.instance(), how]);
                    let doing = "stopping the pixel";
                    self.run_state(name, "virt.instance.stop", params, doing, limit)
                        .await
                };
                let force = json!({"force": true});
                if grace.is_zero() {
                    ask(force, STATE).await
                } else {
                    let gentle = json!({"timeout": grace.as_secs(), "force": false});
                    match ask(gentle, grace + STATE).await {
                        Err(Failure::Refused(fault)) => {
                            tracing::debug!(%fault, "graceful stop failed, forcing");
                            ask(force, STATE).await
                        }
                        other => other,
                    }
                }
            }
            Found::Lxc(lxc) => lxc::stop(&self.rpc, lxc, grace.is_zero()).await,
        };
        self.reached(name, outcome, Status::Stopped).await
    }

    /// A change that failed, or of which nothing was heard, but whose goal is
    /// reached all the same, counts as done.
    async fn reached(&self, name: &Name, outcome: Result<(), Failure>, goal: Status) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_uncertain() || matches!(failure, Failure::Refused(_)) => {
                match self.find(name).await {
                    Ok(found) if found.status() == goal => Ok(()),
                    Err(error) if error.is_not_found() => Err(error),
                    _ => Err(failure.about(Subject::pixel(name))),
                }
            }
            Err(failure) => Err(failure.about(Subject::pixel(name))),
        }
    }

    pub(super) async fn remove(&self, name: &Name) -> Result<()> {
        let id = match self.find(name).await? {
            Found::Virt(virt) => Note::Id.of(&virt.environment).map(str::to_owned),
            Found::Lxc(lxc) => {
                self.halt(name, Duration::ZERO).await?;
                return lxc::delete(&self.rpc, &lxc)
                    .await
                    .map_err(|failure| failure.about(Subject::pixel(name)));
            }
        };
        retry::until(BUSY, || async {
            if let Err(error) = self.halt(name, Duration::ZERO).await {
                return Next::Done(self.is_gone(name, error).await);
            }
            let params = json!([name.instance()]);
            let method = "virt.instance.delete";
            let doing = "deleting the pixel";
            match self.run_state(name, method, params, doing, STATE).await {
                Ok(()) => Next::Done(Ok(())),
                Err(failure @ Failure::Refused(_)) if !failure.is_not_found() => {
                    Next::Again(failure)
                }
                Err(failure) => {
                    let error = failure.about(Subject::pixel(name));
                    Next::Done(self.is_gone(name, error).await)
                }
            }
        })
        .await
        .unwrap_or_else(|failure| Err(failure.about(Subject::pixel(name))))?;
        if let Some(id) = id {
            self.ssh.forget_host(&name.instance(), &id);
        }
        Ok(())
    }

    /// What failed on a pixel that was there a moment ago, and is not any more.
    async fn is_gone(&self, name: &Name, error: Error) -> Result<()> {
        match self.find(name).await {
            Err(missing) if missing.is_not_found() => Ok(()),
            _ => Err(error),
        }
    }

    pub(super) async fn one(&self, name: &Name) -> Result<Instance> {
        Ok(self.find(name).await?.describe(name.clone()))
    }

    pub(super) async fn all(&self) -> Result<Vec<Instance>> {
        let release = self.rpc.release().await.map_err(Failure::plain)?;
        let table = release.table;
        let ours = json!([["name", "^", "px-"]]);
        let found: Vec<Found> = match table.containers {
            Containers::Virt => {
                let wish = json!([ours, {"extra": {"raw": true}}]);
                let found: Vec<Virt> = self.read(table.query, wish).await?;
                if found.is_empty() {
                    self.initialized().await?;
                }
                found.into_iter().map(Box::new).map(Found::Virt).collect()
            }
            Containers::Lxc => {
                let found: Vec<Lxc> = self.read(table.query, json!([ours, {}])).await?;
                found.into_iter().map(Found::Lxc).collect()
            }
        };
        let mut pixels: Vec<Instance> = found
            .into_iter()
            .filter_map(|found| {
                let name = Name::from_instance(found.name())?;
                Some(found.describe(name))
            })
            .collect();
        pixels.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pixels)
    }

    pub(super) async fn change_properties(&self, name: &Name, new: &Properties) -> Result<()> {
        self.change_environment(name, |environment| properties::merge(environment, new))
            .await
    }

    /// The server takes the environment as a whole: changes of one process
    /// are made one after the other.
    pub(super) async fn change_environment(
        &self,
        name: &Name,
        change: impl Fn(&mut Environment) -> Result<()>,
    ) -> Result<()> {
        let _turn = self.changing.lock().await;
        let found = self.find_virt(name).await?;
        let mut environment = found.environment.clone();
        change(&mut environment)?;
        if environment == found.environment {
            return Ok(());
        }
        let task = Task {
            method: "virt.instance.update",
            params: json!([name.instance(), {"environment": environment}]),
            doing: "noting what is known of the pixel",
            limit: STATE,
        };
        match job::run(&self.rpc, &task).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_uncertain() => {
                match self.find_virt(name).await?.environment == environment {
                    true => Ok(()),
                    false => Err(failure.about(Subject::pixel(name))),
                }
            }
            Err(failure) => Err(failure.about(Subject::pixel(name))),
        }
    }

    /// Waits until none of our calls is under way, nor any job on the pixel.
    pub(super) async fn await_idle(&self, name: &Name) -> Result<()> {
        let idle = retry::until(SETTLE, || async {
            if self.rpc.changing().await > 0 {
                return Next::Again(());
            }
            match job::under_way(&self.rpc, &name.instance()).await {
                Ok(jobs) if jobs.is_empty() => Next::Done(Ok(())),
                Ok(_) => Next::Again(()),
                Err(failure) => Next::Done(Err(failure.plain())),
            }
        });
        idle.await.unwrap_or_else(|()| {
            Err(Error::TimedOut {
                doing: format!("the server's work on {}", Subject::pixel(name)),
                after: SETTLE,
            })
        })
    }
}

/// What a new instance is made of.
pub(super) struct Wish<'a> {
    pub image: &'a str,
    pub limits: &'a Limits,
    pub environment: Environment,
    pub device: Value,
}

pub(super) fn no_segments() -> Error {
    Error::Unsupported {
        operation: "a gateway for pixels".into(),
        reason: "TrueNAS makes no network without an address of its own; set network.placement \
                 to \"pixel\""
            .into(),
    }
}

impl Found {
    pub fn name(&self) -> &str {
        match self {
            Self::Virt(virt) => &virt.name,
            Self::Lxc(lxc) => &lxc.name,
        }
    }

    pub fn status(&self) -> Status {
        let word = match self {
            Self::Virt(virt) => &virt.status,
            Self::Lxc(lxc) => &lxc.status.state,
        };
        match word.as_str() {
            "RUNNING" => Status::Running,
            "STOPPED" => Status::Stopped,
            "ERROR" => Status::Failed,
            // Words of later releases too: the server is to be asked again.
            _ => Status::Changing,
        }
    }

    fn describe(self, name: Name) -> Instance {
        let status = self.status();
        match self {
            Self::Virt(virt) => virt.describe(name, status),
            Self::Lxc(lxc) => Instance {
                name,
                status,
                addresses: Vec::new(),
                created_at: 0,
                started_once: true,
                image: None,
                cpu: lxc.cpuset,
                memory: None,
                privileged: lxc.idmap.is_none(),
                mac: None,
                segment: None,
                properties: Properties::new(),
            },
        }
    }
}

impl Virt {
    /// The address of the interface of ours; a bridge made inside has one too.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let state = self.raw.as_ref().and_then(|raw| raw.state.as_ref());
        let network = state.and_then(|state| state.network.as_ref());
        if let Some(eth0) = network.and_then(|network| network.get("eth0")) {
            return eth0
                .addresses
                .iter()
                .filter(|a| a.family == "inet" && a.scope == "global")
                .find_map(|a| a.address.parse().ok());
        }
        let mut all = self.aliases.iter().filter(|alias| alias.kind == "INET");
        match (all.next(), all.next()) {
            // Of several nobody could tell which is meant.
            (Some(only), None) => only.address.parse().ok(),
            _ => None,
        }
    }

    fn describe(self, name: Name, status: Status) -> Instance {
        let config = |key: &str| self.raw.as_ref()?.config.get(key).cloned();
        let stamp = |text: Option<&String>| text.map_or(0, |text| timestamp(text));
        let pending = Note::Contact.of(&self.environment) == Some(properties::PENDING);
        let image = self.image.description.clone().or_else(|| {
            let os = self.image.os.clone()?;
            Some(match &self.image.release {
                Some(release) => format!("{os}/{release}"),
                None => os,
            })
        });
        let used = stamp(self.raw.as_ref().map(|raw| &raw.last_used_at)) > 0;
        Instance {
            addresses: match status {
                Status::Running => self.address().into_iter().collect(),
                _ => Vec::new(),
            },
            created_at: stamp(self.raw.as_ref().map(|raw| &raw.created_at)),
            // Before there is a way in, nobody has worked in it.
            started_once: !pending && (used || self.raw.is_none()),
            privileged: self.privileged_mode.unwrap_or(false)
                || config("security.privileged").as_deref() == Some("true"),
            mac: config("volatile.eth0.hwaddr"),
            segment: None,
            properties: properties::read(&self.environment),
            memory: self.memory.map(|bytes| bytes.to_string()),
            cpu: self.cpu,
            image,
            status,
            name,
        }
    }
}

fn timestamp(text: &str) -> i64 {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_or(0, time::OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn virt(more: Value) -> Virt {
        let mut all = json!({"name": "px-a", "status": "RUNNING", "cpu": null, "memory": null,
            "aliases": [{"type": "INET", "address": "172.17.0.1", "netmask": 16},
                        {"type": "INET", "address": "192.0.2.7", "netmask": 24}]});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_bridge_inside_is_not_taken_for_the_address() {
        let raw = json!({"raw": {"state": {"network": {
            "docker0": {"addresses": [{"family": "inet", "address": "172.17.0.1", "scope": "global"}]},
            "eth0": {"addresses": [{"family": "inet6", "address": "fe80::1", "scope": "link"},
                                   {"family": "inet", "address": "192.0.2.7", "scope": "global"}]}}}}});
        assert_eq!(virt(raw).address(), Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(virt(json!({})).address(), None);
        let one = json!({"aliases": [{"type": "INET6", "address": "2001:db8::1"},
                                     {"type": "INET", "address": "192.0.2.9"}]});
        assert_eq!(virt(one).address(), Some(Ipv4Addr::new(192, 0, 2, 9)));
    }

    #[test]
    fn unknown_states_are_passing_ones() {
        let name: Name = "a".parse().unwrap();
        for (word, status) in [
            ("RUNNING", Status::Running),
            ("STOPPED", Status::Stopped),
            ("ERROR", Status::Failed),
            ("THAWED", Status::Changing),
            ("SOMETHING", Status::Changing),
        ] {
            let found = Found::Virt(Box::new(virt(json!({"status": word}))));
            assert_eq!(found.describe(name.clone()).status, status, "{word}");
        }
        let privileged = Found::Virt(Box::new(virt(json!({"privileged_mode": true}))));
        assert!(privileged.describe(name.clone()).privileged);
        let pending = virt(json!({"environment": {"pixels__contact": "pending"}}));
        assert!(!Found::Virt(Box::new(pending)).describe(name).started_once);
    }
}
