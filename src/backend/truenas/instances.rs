//! Creates, lists and updates instances.

use std::time::Duration;

use serde_json::{Value, json};

use super::Truenas;
use super::convert::Container;
use super::error::{Failure, settle};
use super::job::{self, JobCall};
use super::messages::Meaning;
use super::nic;
use super::properties::{self, Environment, PropertyKey};
use super::wire::{Interface, Lxc, Summary, Virt, VirtConfig};
use crate::model::{
    Attachment, CreateSpec, Error, FirstBoot, InitScript, Instance, Limits, Name, Properties,
    Reason, Result, Subject,
};
use crate::retry::{self, Next};

/// Deadline of a creation. The server allows 15 minutes for the image download.
const CREATE_TIMEOUT: Duration = Duration::from_secs(17 * 60);
/// How long to look for an instance after a creation with unknown result.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(15);
const UPDATE_TIMEOUT: Duration = Duration::from_secs(120);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The server's minimum memory limit in bytes.
const MIN_MEMORY: u64 = 32 << 20;

impl Truenas {
    /// Queries the instances that match a filter. Fails if the containers service
    /// is not ready, because the server then returns an empty list.
    async fn query(&self, filter: Value) -> Result<Vec<Container>> {
        if self.rpc.release().await?.has_virt() {
            let params = json!([filter, {"extra": {"raw": true}}]);
            let found: Vec<Virt> = self.rpc.read("virt.instance.query", params).await?;
            if found.is_empty() {
                self.check_service().await?;
            }
            Ok(found.into_iter().map(Container::from).collect())
        } else {
            let params = json!([filter, {}]);
            let found: Vec<Lxc> = self.rpc.read("container.query", params).await?;
            Ok(found.into_iter().map(Container::Lxc).collect())
        }
    }

    pub(super) async fn find(&self, name: &Name) -> Result<Container> {
        let found = self.query(json!([["name", "=", name.instance()]])).await?;
        let first = found.into_iter().next();
        first.ok_or_else(|| Error::NotFound(Subject::pixel(name)))
    }

    /// Finds an instance of `virt.*` for an operation that requires that API.
    pub(super) async fn find_virt(&self, name: &Name, operation: &str) -> Result<Virt> {
        match self.find(name).await? {
            Container::Virt(virt) => Ok(*virt),
            Container::Lxc(_) => {
                self.needs_virt(operation).await?;
                Err(upgraded())
            }
        }
    }

    pub(super) async fn needs_virt(&self, operation: &str) -> Result<()> {
        self.rpc.release().await?.needs_virt(operation)
    }

    async fn check_service(&self) -> Result<()> {
        let config: VirtConfig = self.rpc.read("virt.global.config", json!([])).await?;
        match config.state.as_deref() {
            Some("INITIALIZED") => Ok(()),
            state => Err(Error::WrongState {
                subject: Subject::Other("the containers service of TrueNAS".into()),
                state: state.unwrap_or("not set up").to_lowercase(),
            }),
        }
    }

    pub(super) async fn create(&self, spec: &CreateSpec) -> Result<InitScript> {
        self.needs_virt("creating a pixel").await?;
        self.check_attachment(&spec.network)?;
        // Without an SSH key, the new pixel would not be accessible.
        self.ssh.public_key().await?;
        let device = self.device().await?;
        let image = spec.image.strip_prefix("images:").unwrap_or(&spec.image);
        let mut environment = Environment::new();
        properties::merge(&mut environment, &spec.properties)?;
        PropertyKey::Bootstrap.set(&mut environment, properties::PENDING);
        self.record_first_boot(&mut environment, &spec.name, &spec.first_boot);
        let instance = InstanceSpec {
            image,
            limits: &spec.limits,
            environment,
            device,
        };
        self.create_instance(&spec.name, instance).await?;
        Ok(InitScript::Applied)
    }

    /// Records the script for the first boot, and the id and name by which
    /// `identity.sh` recognizes a new instance.
    pub(super) fn record_first_boot(
        &self,
        environment: &mut Environment,
        name: &Name,
        first_boot: &FirstBoot,
    ) {
        let id = first_boot.variables.iter().find(|(key, _)| key == "id");
        let id = id.map_or_else(|| self.rpc.id(), |(_, value)| value.clone());
        PropertyKey::Id.set(environment, &id);
        PropertyKey::Name.set(environment, &name.instance());
        self.first_boot_scripts()
            .insert(name.clone(), first_boot.script.clone());
    }

    pub(super) fn check_attachment(&self, network: &Attachment) -> Result<()> {
        match network {
            Attachment::Default => Ok(()),
            Attachment::IsolatedBridge(_) | Attachment::Gateway { .. } => {
                Err(no_isolated_bridges())
            }
        }
    }

    pub(super) async fn device(&self) -> Result<Value> {
        let interfaces: Vec<Interface> = self.rpc.read("interface.query", json!([])).await?;
        let summary: Summary = self.rpc.read("network.general.summary", json!([])).await?;
        nic::choose(&self.placement.nic, &interfaces, &summary)
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
            // `true` would also start the instance immediately.
            "autostart": false,
            "environment": instance.environment,
            "devices": [instance.device],
        });
        if let Some(cpu) = &instance.limits.cpu {
            body["cpu"] = json!(cpu);
        }
        if let Some(memory) = instance.limits.memory {
            if memory < MIN_MEMORY {
                return Err(Error::Invalid(
                    "TrueNAS requires at least 32 MiB of memory".into(),
                ));
            }
            body["memory"] = json!(memory);
        }
        if instance.limits.disk.is_some() {
            return Err(Error::Unsupported {
                operation: "a disk limit".into(),
                reason: "TrueNAS has no disk limit for containers".into(),
            });
        }
        if let Some(pool) = &self.placement.pool {
            body["storage_pool"] = json!(pool);
        }
        let call = JobCall {
            method: "virt.instance.create",
            params: json!([body]),
            doing: "creating the pixel",
            limit: CREATE_TIMEOUT,
        };
        match job::run(&self.rpc, &call).await {
            // The name is valid, so the instance already exists.
            Err(Failure::Refused(fault)) if fault.means(Meaning::NameInUse) => {
                Err(Error::AlreadyExists(Subject::pixel(name)))
            }
            Err(Failure::Refused(fault)) if fault.means(Meaning::PoolNotFound) => {
                let pool = self.placement.pool.clone().unwrap_or_default();
                Err(Error::NotFound(Subject::Pool(pool)))
            }
            // After a restart of the service, the job is missing but the creation
            // continues.
            outcome => {
                let appears = async { Ok(self.appears(name, &instance.environment).await) };
                settle(outcome, Subject::pixel(name), appears).await
            }
        }
    }

    /// Waits for an instance with exactly this environment, which contains a unique
    /// id.
    async fn appears(&self, name: &Name, environment: &Environment) -> bool {
        let found = retry::until(APPEAR_TIMEOUT, || async {
            match self.find_virt(name, "creating a pixel").await {
                Ok(found) => Next::Done(found.environment == *environment),
                Err(_) => Next::Again(()),
            }
        });
        found.await.unwrap_or(false)
    }

    pub(super) async fn list(&self) -> Result<Vec<Instance>> {
        let found = self.query(json!([["name", "^", "px-"]])).await?;
        let pixels = found.into_iter().filter_map(|container| {
            let name = Name::from_instance(container.name())?;
            Some(container.into_instance(name))
        });
        let mut pixels: Vec<Instance> = pixels.collect();
        pixels.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pixels)
    }

    pub(super) async fn change_properties(&self, name: &Name, new: &Properties) -> Result<()> {
        // `container.*` stores no properties, so removing properties succeeds.
        if new.values().all(String::is_empty) && matches!(self.find(name).await?, Container::Lxc(_))
        {
            return Ok(());
        }
        self.change_environment(name, |environment| properties::merge(environment, new))
            .await
    }

    /// Reads, changes and writes the environment. The server accepts only a
    /// complete environment. Changes by this process are serialized.
    pub(super) async fn change_environment(
        &self,
        name: &Name,
        change: impl Fn(&mut Environment) -> Result<()>,
    ) -> Result<()> {
        const OPERATION: &str = "storing properties of a pixel";
        let _guard = self.environment_lock.lock().await;
        let found = self.find_virt(name, OPERATION).await?;
        let mut environment = found.environment.clone();
        change(&mut environment)?;
        if environment == found.environment {
            return Ok(());
        }
        let call = JobCall {
            method: "virt.instance.update",
            params: json!([name.instance(), {"environment": environment}]),
            doing: OPERATION,
            limit: UPDATE_TIMEOUT,
        };
        let outcome = job::run(&self.rpc, &call).await;
        let is_stored =
            async { Ok(self.find_virt(name, OPERATION).await?.environment == environment) };
        settle(outcome, Subject::pixel(name), is_stored).await
    }

    /// Waits until no write of this process and no server job for the pixel is
    /// pending.
    pub(super) async fn await_idle(&self, name: &Name) -> Result<()> {
        self.await_jobs(name, true).await
    }

    /// Waits until no server job for the pixel is pending, and no write of this
    /// process either if `and_writes`.
    pub(super) async fn await_jobs(&self, name: &Name, and_writes: bool) -> Result<()> {
        let idle = retry::until(IDLE_TIMEOUT, || async {
            if and_writes && self.rpc.pending_writes().await > 0 {
                return Next::Again(());
            }
            let clone_job = self.clone_jobs().get(name).copied();
            match job::is_in_progress(&self.rpc, &name.instance(), clone_job).await {
                Ok(false) => Next::Done(Ok(())),
                Ok(true) => Next::Again(()),
                Err(failure) => Next::Done(Err(failure.into())),
            }
        });
        idle.await.unwrap_or_else(|()| {
            Err(Error::TimedOut {
                doing: format!("the server's work on {}", Subject::pixel(name)),
                after: IDLE_TIMEOUT,
            })
        })
    }
}

/// The settings of a new instance.
pub(super) struct InstanceSpec<'a> {
    pub image: &'a str,
    pub limits: &'a Limits,
    pub environment: Environment,
    pub device: Value,
}

pub(super) fn no_isolated_bridges() -> Error {
    Error::Unsupported {
        operation: "a gateway for pixels".into(),
        reason: Reason::from("TrueNAS cannot create a network without an address of the server")
            .with_hint("set network.placement to \"pixel\""),
    }
}

/// Returns the error for a server upgrade between two calls.
pub(super) fn upgraded() -> Error {
    Error::Protocol("TrueNAS was upgraded during the call; retry".into())
}
