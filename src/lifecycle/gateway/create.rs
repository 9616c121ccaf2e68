//! A gateway that is there and runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{DNS, GatewaySpec, HOST, KEY, SUBNET};
use crate::egress::gateway::{self as inside, Subnet};
use crate::lifecycle::creator::{Creator, CreatorState};
use crate::lifecycle::rollback::Rollback;
use crate::lifecycle::{Error, Progress, identity};
use crate::model::{
    self, Attachment, Backend, CreateSpec, Instance, Limits, Properties, Result, Status, Subject,
    unless_cancelled,
};

/// For a gateway that another command is making, which may have to install packages.
const DEADLINE: Duration = Duration::from_secs(10 * 60);
const POLL: Duration = Duration::from_millis(200);
/// Its maker on another machine has given up by then.
const ELSEWHERE: i64 = 15 * 60;
/// For the gateway that is removed.
const LEARNED: Duration = Duration::from_secs(10);
/// It runs a resolver of a few MB for each policy.
const MEMORY: u64 = 1024 * 1024 * 1024;
/// A new network namespace takes these over from the host, whose router it
/// must not be before it has walls: pixels are there already when a gateway is
/// made anew.
const SHUT: &str = "echo 0 >/proc/sys/net/ipv4/ip_forward;\n\
                    echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore;\n";

/// What there is of a gateway.
enum GatewayState {
    Running,
    Stopped {
        /// Which tells it from one that somebody has made since.
        created_at: i64,
    },
    /// Finished by a version of pixels whose files differ.
    Outdated,
    /// By somebody who is at it.
    InTheMaking,
    /// By somebody who is gone.
    HalfMade,
    Nothing,
}

/// Makes the gateway, or waits for whoever is making it; starts it when it is
/// stopped; puts this version's files in when it has another's.
pub async fn ensure(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway: &GatewaySpec,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let creator = Creator::new();
    let mut undo = Rollback::new(backend, &creator);
    let work = async {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            match find(backend, gateway).await? {
                GatewayState::Running => return Ok(()),
                GatewayState::Stopped { created_at } => {
                    progress("starting the gateway");
                    match backend.start(&gateway.name).await {
                        // The host kept its route through a kill of the daemon.
                        // Made anew it gets other addresses, which pixels take
                        // up as they are started.
                        Err(model::Error::AlreadyExists(Subject::Route(_)))
                            if gateway.any_subnet =>
                        {
                            destroy_incomplete(backend, gateway, created_at).await?;
                        }
                        // Another command has discarded it.
                        Err(error) if error.is_not_found() => {}
                        outcome => outcome?,
                    }
                }
                GatewayState::Outdated => {
                    progress("updating the gateway");
                    install(backend, gateway).await?;
                }
                GatewayState::HalfMade => match backend.destroy(&gateway.name).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                },
                GatewayState::Nothing => {
                    progress("making the gateway");
                    undo.track_pixel(&gateway.name);
                    match create(backend, gateway, &creator).await {
                        Err(model::Error::AlreadyExists(_)) => {}
                        other => return other,
                    }
                }
                GatewayState::InTheMaking if tokio::time::Instant::now() < deadline => {
                    progress("waiting for the gateway");
                    tokio::time::sleep(POLL).await;
                }
                GatewayState::InTheMaking => {
                    return Err(model::Error::TimedOut {
                        doing: "another command's making of the gateway".into(),
                        after: DEADLINE,
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

async fn find(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<GatewayState> {
    let found = match backend.get(&gateway.name).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(GatewayState::Nothing),
        Err(error) => return Err(error),
    };
    if !super::is_gateway(&found) {
        return Err(model::Error::Invalid(
            format!(
                "{} on the server is not the gateway of {}: rename or remove it, \
             or name another bridge in network.bridge",
                gateway.name.instance(),
                gateway.bridge
            )
            .into(),
        ));
    }
    Ok(match found.properties.get(KEY) {
        None => creator_state(&found),
        Some(_) if found.status != Status::Running => GatewayState::Stopped {
            created_at: found.created_at,
        },
        Some(version) if *version != inside::version() => GatewayState::Outdated,
        Some(_) => GatewayState::Running,
    })
}

/// Removes a gateway that cannot be started, and no other that has taken its
/// place meanwhile.
async fn destroy_incomplete(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    created_at: i64,
) -> Result<()> {
    match backend.get(&gateway.name).await {
        Ok(found)
            if found.created_at == created_at
                && found.status == Status::Stopped
                && found.properties.contains_key(KEY) => {}
        Err(error) if !error.is_not_found() => return Err(error),
        _ => return Ok(()),
    }
    match backend.destroy(&gateway.name).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn creator_state(found: &Instance) -> GatewayState {
    let age = time::OffsetDateTime::now_utc().unix_timestamp() - found.created_at;
    match Creator::recorded_on(found).map(|creator| creator.state()) {
        Some(CreatorState::Alive) => GatewayState::InTheMaking,
        Some(CreatorState::Elsewhere) if age < ELSEWHERE => GatewayState::InTheMaking,
        _ => GatewayState::HalfMade,
    }
}

async fn create(backend: &dyn Backend, gateway: &GatewaySpec, creator: &Creator) -> Result<()> {
    backend.ensure_isolated_bridge(&gateway.bridge).await?;
    let mut instead = gateway.subnet.alternatives().filter(|_| gateway.any_subnet);
    let mut subnet = gateway.subnet;
    loop {
        match create_in_subnet(backend, gateway, subnet, creator).await {
            Err(model::Error::AlreadyExists(Subject::Route(route))) => {
                let taken = model::Error::AlreadyExists(Subject::Route(route));
                subnet = instead.next().ok_or(taken)?;
                backend.destroy(&gateway.name).await?;
            }
            Err(error) => return Err(error),
            Ok(()) => return install(backend, gateway).await,
        }
    }
}

/// Made and started, and nothing in it yet.
async fn create_in_subnet(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    subnet: Subnet,
    creator: &Creator,
) -> Result<()> {
    let mut properties = Properties::from([
        (SUBNET.to_owned(), subnet.to_string()),
        (DNS.to_owned(), gateway.dns.join(",")),
    ]);
    let host = backend.host_addresses().await?;
    let host: Vec<String> = host.iter().map(ToString::to_string).collect();
    properties.insert(HOST.to_owned(), host.join(","));
    properties.retain(|_, value| !value.is_empty());
    creator.mark(&mut properties);
    let mut first_boot = identity::first_boot(creator, &gateway.name);
    first_boot.script.insert_str(0, SHUT);
    let spec = CreateSpec {
        name: gateway.name.clone(),
        image: image(backend, gateway).await?,
        network: Attachment::Gateway {
            bridge: gateway.bridge.clone(),
            subnet: subnet.to_string(),
        },
        limits: Limits {
            cpu: None,
            memory: Some(MEMORY),
        },
        properties,
        first_boot,
    };
    let taken = backend.create(&spec).await?;
    identity::ensure_identity(backend, &spec.name, taken).await?;
    backend.start(&spec.name).await
}

async fn image(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<String> {
    let built = backend.image_with_prefix(&gateway.built).await?;
    Ok(built.unwrap_or_else(|| gateway.image.clone()))
}

/// Removes the gateway and makes it anew, with the settings of now. Pixels
/// behind it keep their addresses and policies, and have no network meanwhile.
pub async fn rebuild(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway: &GatewaySpec,
    progress: Progress<'_>,
) -> Result<(), Error> {
    // A gateway that is broken tells nothing, and costs its pixels the answers
    // they hold at this moment.
    let guest = backend.guest(&gateway.name);
    let learned = match tokio::time::timeout(LEARNED, inside::learned(&*guest)).await {
        Ok(Ok(learned)) => Some(learned),
        _ => None,
    };
    let before = match backend.get(&gateway.name).await {
        Ok(found) => super::subnet(&found),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    progress("removing the gateway");
    let gone = unless_cancelled(cancel, backend.destroy(&gateway.name)).await;
    match gone {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let mut gateway = GatewaySpec {
        learned,
        ..gateway.clone()
    };
    if let Some(before) = before.filter(|_| gateway.any_subnet) {
        gateway.subnet = before;
    }
    ensure(backend, cancel, &gateway, progress).await?;
    let own = backend.get(&gateway.name).await?;
    if super::subnet(&own) != before {
        // Addresses that are no longer the gateway's are given out anew; a pixel
        // takes its own up at its next start or when its lease ends.
        for pixel in backend.list().await? {
            if pixel.isolated_bridge.as_ref() == Some(&gateway.bridge) {
                super::admit(backend, &gateway, &pixel.name).await?;
            }
        }
    }
    Ok(super::reconcile(backend, &gateway).await?)
}

/// Whether its making was cut off, by a command that is gone for certain: it
/// was so before and after the server was done with it.
pub async fn is_incomplete(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<bool> {
    if !matches!(find(backend, gateway).await?, GatewayState::HalfMade) {
        return Ok(false);
    }
    backend.wait_idle(&gateway.name).await?;
    Ok(matches!(
        find(backend, gateway).await?,
        GatewayState::HalfMade
    ))
}

/// Removes what [`is_half_made`]; anything else stays.
pub async fn remove_incomplete(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    if !is_incomplete(backend, gateway).await? {
        return Ok(());
    }
    match backend.destroy(&gateway.name).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Removes the gateway and its segment. Missing counts as done; with pixels
/// behind it, it stays and the error names them.
pub async fn remove(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    let pixels = backend.list().await?;
    let behind: Vec<&str> = pixels
        .iter()
        .filter(|pixel| pixel.isolated_bridge.as_ref() == Some(&gateway.bridge))
        .map(|pixel| pixel.name.as_str())
        .collect();
    if !behind.is_empty() {
        return Err(model::Error::Invalid(
            format!(
                "these pixels have no network without the gateway {}: {}",
                gateway.name.instance(),
                behind.join(", ")
            )
            .into(),
        ));
    }
    match find(backend, gateway).await? {
        GatewayState::Nothing => {}
        GatewayState::InTheMaking => {
            return Err(model::Error::Invalid(
                format!(
                    "the gateway {} is being made by another command",
                    gateway.name.instance()
                )
                .into(),
            ));
        }
        _ => match backend.destroy(&gateway.name).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        },
    }
    backend.remove_isolated_bridge(&gateway.bridge).await
}

/// Puts the files in and says so on record.
async fn install(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    let found = backend.get(&gateway.name).await?;
    let subnet = super::subnet(&found).unwrap_or(gateway.subnet);
    let guest = backend.guest(&gateway.name);
    inside::install(&*guest, subnet, gateway.learned.clone()).await?;
    let properties = Properties::from([(KEY.to_owned(), inside::version())]);
    backend.set_properties(&gateway.name, &properties).await
}
