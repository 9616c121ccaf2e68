//! Creates, starts and updates a gateway.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DNS, GatewaySpec, HOST, KEY, SUBNET};
use crate::egress::gateway::{self as egress_gateway, Subnet};
use crate::file_lock::{self, FileLock, LockMode};
use crate::lifecycle::creator::{Creator, CreatorState};
use crate::lifecycle::rollback::Rollback;
use crate::lifecycle::{Error, Progress, identity, optional};
use crate::model::{
    self, Attachment, Backend, CreateSpec, Instance, Limits, Name, Properties, Result, Status,
    Subject, unless_cancelled,
};

/// Time limit for another command that is creating the gateway, which may
/// install packages.
const CREATION_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Time to save the learned addresses and shut down.
const STOP_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// Seconds after which an unfinished creator on another machine counts as
/// exited.
const REMOTE_CREATION_TIMEOUT_SECONDS: i64 = 15 * 60;
/// Memory limit. The gateway runs a resolver of a few MB for each policy.
const MEMORY: u64 = 1024 * 1024 * 1024;

/// The state of a gateway, from the server's records.
pub(super) enum GatewayState {
    Running,
    Stopped {
        /// Distinguishes the gateway from a later gateway with the same name.
        created_at: i64,
    },
    /// The gateway is complete, but has the files of another version of pixels.
    Outdated,
    /// The command that creates the gateway is still running.
    BeingCreated,
    /// The command that created the gateway has exited before finishing.
    Incomplete,
    Missing,
}

/// Creates the gateway, or waits for another command that is creating it.
/// Starts a stopped gateway. Updates the files of an outdated gateway.
///
/// On failure or cancellation, a gateway that this call created is deleted, or
/// the error lists it as a leftover.
pub async fn ensure(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway: &GatewaySpec,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let creator = Creator::new();
    let mut undo = Rollback::new(backend, &creator);
    let work = async {
        let deadline = Instant::now() + CREATION_TIMEOUT;
        let mut update_lock = None;
        loop {
            match read_state(backend, gateway).await? {
                GatewayState::Running => return Ok(()),
                GatewayState::Stopped { created_at } => {
                    progress("starting the gateway");
                    match backend.start(&gateway.name).await {
                        // The host kept the route when the daemon was killed. A
                        // new gateway gets another subnet, and pixels get new
                        // addresses when they start.
                        Err(model::Error::AlreadyExists(Subject::Route(_)))
                            if gateway.any_subnet =>
                        {
                            destroy_stopped(backend, gateway, created_at).await?;
                        }
                        // Another command has deleted the gateway.
                        outcome => drop(optional(outcome)?),
                    }
                }
                // The gateway has no network while another command updates it.
                GatewayState::Outdated if update_lock.is_none() => {
                    update_lock = Some(lock_updates(&gateway.name).await);
                }
                GatewayState::Outdated => {
                    progress("updating the gateway");
                    update(backend, gateway).await?;
                }
                GatewayState::Incomplete => {
                    optional(backend.destroy(&gateway.name).await)?;
                }
                GatewayState::Missing => {
                    progress("creating the gateway");
                    undo.track_pixel(&gateway.name);
                    match create(backend, gateway, &creator).await {
                        Err(model::Error::AlreadyExists(_)) => {}
                        other => return other,
                    }
                }
                GatewayState::BeingCreated if Instant::now() < deadline => {
                    progress("waiting for the gateway");
                    tokio::time::sleep(POLL).await;
                }
                GatewayState::BeingCreated => {
                    return Err(model::Error::TimedOut {
                        doing: "creation of the gateway by another command".into(),
                        after: CREATION_TIMEOUT,
                    });
                }
            }
        }
    };
    match unless_cancelled(cancel, work).await {
        Ok(()) => Ok(()),
        Err(source) => Err(Error {
            source,
            leftovers: undo.unwind().await,
        }),
    }
}

pub(super) async fn read_state(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
) -> Result<GatewayState> {
    let Some(instance) = optional(backend.get(&gateway.name).await)? else {
        return Ok(GatewayState::Missing);
    };
    if !super::is_gateway(&instance) {
        let name = gateway.name.instance();
        let reason = format!("instance {name} is not the gateway of {}", gateway.bridge);
        let hint = format!("rename or delete {name}, or set network.bridge to another bridge");
        return Err(model::Error::Invalid(
            model::Reason::from(reason).with_hint(hint),
        ));
    }
    Ok(match instance.properties.get(KEY) {
        None => creator_state(&instance),
        Some(_) if instance.status != Status::Running => GatewayState::Stopped {
            created_at: instance.created_at,
        },
        Some(recorded) if *recorded != version(backend)? => GatewayState::Outdated,
        Some(_) => GatewayState::Running,
    })
}

fn creator_state(instance: &Instance) -> GatewayState {
    let age_seconds = time::OffsetDateTime::now_utc().unix_timestamp() - instance.created_at;
    match Creator::recorded_on(instance).map(|creator| creator.state()) {
        Some(CreatorState::Running) => GatewayState::BeingCreated,
        Some(CreatorState::OtherMachine) if age_seconds < REMOTE_CREATION_TIMEOUT_SECONDS => {
            GatewayState::BeingCreated
        }
        _ => GatewayState::Incomplete,
    }
}

/// Deletes a gateway that cannot be started, unless it has been replaced.
async fn destroy_stopped(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    created_at: i64,
) -> Result<()> {
    match optional(backend.get(&gateway.name).await)? {
        Some(instance)
            if instance.created_at == created_at
                && instance.status == Status::Stopped
                && instance.properties.contains_key(KEY) =>
        {
            optional(backend.destroy(&gateway.name).await).map(drop)
        }
        _ => Ok(()),
    }
}

/// Creates and installs a gateway. If the host uses the subnet and the user
/// configured no subnet, tries other subnets.
async fn create(backend: &dyn Backend, gateway: &GatewaySpec, creator: &Creator) -> Result<()> {
    let network = backend.isolated_network()?;
    network.ensure_bridge(&gateway.bridge).await?;
    let mut alternatives = gateway.subnet.alternatives().filter(|_| gateway.any_subnet);
    let mut subnet = gateway.subnet;
    loop {
        match create_and_start(backend, gateway, subnet, creator).await {
            Err(error @ model::Error::AlreadyExists(Subject::Route(_))) => {
                subnet = alternatives.next().ok_or(error)?;
                backend.destroy(&gateway.name).await?;
            }
            Err(error) => return Err(error),
            Ok(()) => return install(backend, gateway).await,
        }
    }
}

/// Creates and starts a gateway, without installing its files.
async fn create_and_start(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    subnet: Subnet,
    creator: &Creator,
) -> Result<()> {
    let mut properties = Properties::from([
        (SUBNET.to_owned(), subnet.to_string()),
        (DNS.to_owned(), gateway.dns.join(",")),
    ]);
    let host = backend.isolated_network()?.host_addresses().await?;
    let host: Vec<String> = host.iter().map(ToString::to_string).collect();
    properties.insert(HOST.to_owned(), host.join(","));
    properties.retain(|_, value| !value.is_empty());
    creator.insert_into(&mut properties);
    let mut first_boot = identity::first_boot(creator, &gateway.name);
    let prologue = include_str!("../guest/gateway-first-boot.sh");
    first_boot.script.insert_str(0, prologue);
    let aliases = backend.image_aliases().await?.into_iter();
    let built = aliases.filter(|alias| alias.starts_with(&gateway.built_image_prefix));
    let spec = CreateSpec {
        name: gateway.name.clone(),
        image: built.max().unwrap_or_else(|| gateway.image.clone()),
        network: Attachment::Gateway {
            bridge: gateway.bridge.clone(),
            subnet: subnet.to_string(),
        },
        limits: Limits {
            cpu: None,
            memory: Some(MEMORY),
            disk: None,
        },
        properties,
        first_boot,
    };
    let init_script = backend.create(&spec).await?;
    identity::ensure_identity(backend, &spec.name, init_script).await?;
    backend.start(&spec.name).await
}

/// Performs the next step of the update of an outdated gateway: stops a gateway
/// whose hooks have changed, because these take effect when it starts again, or
/// installs the files of this version. Pixels have no network during a restart.
async fn update(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    let network = backend.isolated_network()?;
    let instance = backend.get(&gateway.name).await?;
    let subnet = super::subnet(&instance)
        .unwrap_or(gateway.subnet)
        .to_string();
    let changed = network.secure_ports(&gateway.bridge).await?;
    let is_filter_new = network.add_host_filter(&gateway.name, &subnet).await?;
    if is_filter_new || changed.contains(&gateway.name.instance()) {
        return backend.stop(&gateway.name, STOP_GRACE).await;
    }
    match install(backend, gateway).await {
        Err(error) => match read_state(backend, gateway).await? {
            // Another command restarts the gateway.
            GatewayState::Stopped { .. } => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

/// Waits until no other command of this machine updates the gateway. Returns `None`
/// if locks are not available here.
async fn lock_updates(gateway: &Name) -> Option<FileLock> {
    let lock = async {
        let path = file_lock::lock_dir()?.join(format!("update-{gateway}.lock"));
        FileLock::acquire(&path, LockMode::Exclusive, || {}).await
    };
    let lock: io::Result<FileLock> = lock.await;
    lock.inspect_err(|error| tracing::warn!(%error, "cannot lock the gateway"))
        .ok()
}

/// Installs the files of this version and records the version, which marks the
/// gateway as complete.
async fn install(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    let instance = backend.get(&gateway.name).await?;
    let subnet = super::subnet(&instance).unwrap_or(gateway.subnet);
    let guest = backend.guest(&gateway.name);
    egress_gateway::install(&*guest, subnet, gateway.learned.clone()).await?;
    let properties = Properties::from([(KEY.to_owned(), version(backend)?)]);
    backend.set_properties(&gateway.name, &properties).await
}

/// The version of the gateway's files and hooks.
fn version(backend: &dyn Backend) -> Result<String> {
    let hooks = backend.isolated_network()?.hooks_version();
    Ok(format!("{}-{hooks:08x}", egress_gateway::version()))
}
