//! Instances: create, listing, what is noted on them.

use std::time::Duration;

use serde_json::{Value, json};

use super::Truenas;
use super::api_version::Containers;
use super::convert::Found;
use super::error::Failure;
use super::job::{self, JobCall};
use super::nic;
use super::properties::{self, Environment, PropertyKey};
use super::wire::{Interface, Lxc, Summary, Virt, VirtConfig};
use crate::model::{
    Attachment, CreateSpec, Error, FirstBoot, InitScript, Instance, Limits, Name, Properties,
    Result, Subject,
};
use crate::retry::{self, Next};

/// The server gives an image's download a quarter of an hour.
const CREATE: Duration = Duration::from_secs(17 * 60);
/// For an instance of whose creation nothing more is heard.
const APPEARING: Duration = Duration::from_secs(15);
const UPDATE: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(60);
/// The smallest memory the server takes.
const LEAST: u64 = 32 << 20;

impl Truenas {
    /// One instance; `Error::NotFound` only when the server is fit to tell.
    pub(super) async fn find(&self, name: &Name) -> Result<Found> {
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        let table = release.table;
        let only = json!([["name", "=", name.instance()]]);
        let missing = || Error::NotFound(Subject::pixel(name));
        match table.containers {
            Containers::Virt => {
                let params = json!([only, {"extra": {"raw": true}}]);
                let found: Vec<Virt> = self.read(table.query, params).await?;
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
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        release.needs_virt(operation).map_err(Failure::into_error)
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

    pub(super) async fn create(&self, spec: &CreateSpec) -> Result<InitScript> {
        self.needs_virt("making a pixel").await?;
        self.attachable(&spec.network)?;
        // Without a key there would be no way into the pixel.
        self.ssh.public_key().await?;
        let device = self.device().await?;
        let image = spec.image.strip_prefix("images:").unwrap_or(&spec.image);
        let mut environment = Environment::new();
        properties::merge(&mut environment, &spec.properties)?;
        PropertyKey::Contact.set(&mut environment, properties::PENDING);
        self.note_birth(&mut environment, &spec.name, &spec.first_boot);
        let instance = InstanceSpec {
            image,
            limits: &spec.limits,
            environment,
            device,
        };
        self.create_instance(&spec.name, instance).await?;
        Ok(InitScript::Applied)
    }

    /// What tells this instance from its source, for the script that runs at
    /// its first boot.
    pub(super) fn note_birth(&self, environment: &mut Environment, name: &Name, first: &FirstBoot) {
        let id = first.variables.iter().find(|(key, _)| key == "id");
        let id = id.map_or_else(|| self.rpc.id(), |(_, value)| value.clone());
        PropertyKey::Id.set(environment, &id);
        PropertyKey::Name.set(environment, &name.instance());
        self.store_script(name, &first.script);
    }

    pub(super) fn attachable(&self, network: &Attachment) -> Result<()> {
        match network {
            Attachment::Default => Ok(()),
            Attachment::IsolatedBridge(_) | Attachment::Gateway { .. } => Err(no_segments()),
        }
    }

    pub(super) async fn device(&self) -> Result<Value> {
        let interfaces: Vec<Interface> = self.read("interface.query", json!([])).await?;
        let summary: Summary = self.read("network.general.summary", json!([])).await?;
        nic::choose(&self.options.nic, &interfaces, &summary)
    }

    pub(super) async fn create_instance(
        &self,
        name: &Name,
        mut instance: InstanceSpec<'_>,
    ) -> Result<()> {
        PropertyKey::Image.set(&mut instance.environment, instance.image);
        let mut body = json!({
            "name": name.instance(),
            "image": instance.image,
            "instance_type": "CONTAINER",
            // True would start it at once.
            "autostart": false,
            "environment": instance.environment,
            "devices": [instance.device],
        });
        if let Some(cpu) = &instance.limits.cpu {
            body["cpu"] = json!(cpu);
        }
        if let Some(memory) = instance.limits.memory {
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
        let task = JobCall {
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
            // A service that started anew no longer knows the job, but what
            // it had begun goes on.
            Err(failure) if failure.is_uncertain() => {
                match self.appears(name, &instance.environment).await {
                    true => Ok(()),
                    false => Err(failure.into_error_for(Subject::pixel(name))),
                }
            }
            Err(failure) => Err(failure.into_error_for(Subject::pixel(name))),
        }
    }

    /// Whether an instance turns up that carries exactly these notes, among
    /// them an id that no other has.
    async fn appears(&self, name: &Name, notes: &Environment) -> bool {
        let found = retry::until(APPEARING, || async {
            match self.find_virt(name).await {
                Ok(found) => Next::Done(found.environment == *notes),
                Err(_) => Next::Again(()),
            }
        });
        found.await.unwrap_or(false)
    }

    pub(super) async fn get(&self, name: &Name) -> Result<Instance> {
        Ok(self.find(name).await?.describe(name.clone()))
    }

    pub(super) async fn list(&self) -> Result<Vec<Instance>> {
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        let table = release.table;
        let ours = json!([["name", "^", "px-"]]);
        let found: Vec<Found> = match table.containers {
            Containers::Virt => {
                let params = json!([ours, {"extra": {"raw": true}}]);
                let found: Vec<Virt> = self.read(table.query, params).await?;
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
        // Where nothing can be kept, there is nothing to remove either.
        if new.values().all(String::is_empty) && matches!(self.find(name).await?, Found::Lxc(_)) {
            return Ok(());
        }
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
        let task = JobCall {
            method: "virt.instance.update",
            params: json!([name.instance(), {"environment": environment}]),
            doing: "noting what is known of the pixel",
            limit: UPDATE,
        };
        match job::run(&self.rpc, &task).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_uncertain() => {
                match self.find_virt(name).await?.environment == environment {
                    true => Ok(()),
                    false => Err(failure.into_error_for(Subject::pixel(name))),
                }
            }
            Err(failure) => Err(failure.into_error_for(Subject::pixel(name))),
        }
    }

    /// Waits until none of our calls is under way, nor any job on the pixel.
    pub(super) async fn await_idle(&self, name: &Name) -> Result<()> {
        let idle = retry::until(SETTLE, || async {
            if self.rpc.changing().await > 0 {
                return Next::Again(());
            }
            let exchange = self.exchange_of(name);
            match job::under_way(&self.rpc, &name.instance(), exchange).await {
                Ok(false) => Next::Done(Ok(())),
                Ok(true) => Next::Again(()),
                Err(failure) => Next::Done(Err(failure.into_error())),
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
pub(super) struct InstanceSpec<'a> {
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
