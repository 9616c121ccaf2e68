//! A gateway that is there and runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{DNS, Gateway, HOST, KEY, SUBNET};
use crate::egress::gateway::{self as inside, Subnet};
use crate::lifecycle::claim::{Claim, Maker};
use crate::lifecycle::rollback::Rollback;
use crate::lifecycle::{Error, Progress, identity, unless_cancelled};
use crate::sandbox::{
    self, Attachment, CreateSpec, Instance, Limits, Properties, Result, Sandbox, Status, Subject,
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
enum Found {
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
    sandbox: &dyn Sandbox,
    cancel: &CancellationToken,
    gateway: &Gateway,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let claim = Claim::new();
    let mut undo = Rollback::new(sandbox, &claim);
    let work = async {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            match look(sandbox, gateway).await? {
                Found::Running => return Ok(()),
                Found::Stopped { created_at } => {
                    progress("starting the gateway");
                    match sandbox.start(&gateway.name).await {
                        // The host kept its route through a kill of the daemon.
                        // Made anew it gets other addresses, which pixels take
                        // up as they are started.
                        Err(sandbox::Error::AlreadyExists(Subject::Route(_)))
                            if gateway.any_subnet =>
                        {
                            discard(sandbox, gateway, created_at).await?;
                        }
                        // Another command has discarded it.
                        Err(error) if error.is_not_found() => {}
                        outcome => outcome?,
                    }
                }
                Found::Outdated => {
                    progress("updating the gateway");
                    install(sandbox, gateway).await?;
                }
                Found::HalfMade => match sandbox.destroy(&gateway.name).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                },
                Found::Nothing => {
                    progress("making the gateway");
                    undo.pixel(&gateway.name);
                    match make(sandbox, gateway, &claim).await {
                        Err(sandbox::Error::AlreadyExists(_)) => {}
                        other => return other,
                    }
                }
                Found::InTheMaking if tokio::time::Instant::now() < deadline => {
                    progress("waiting for the gateway");
                    tokio::time::sleep(POLL).await;
                }
                Found::InTheMaking => {
                    return Err(sandbox::Error::TimedOut {
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

async fn look(sandbox: &dyn Sandbox, gateway: &Gateway) -> Result<Found> {
    let found = match sandbox.get(&gateway.name).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    if !super::is_gateway(&found) {
        return Err(sandbox::Error::Invalid(format!(
            "{} on the server is not the gateway of {}: rename or remove it, \
             or name another bridge in network.bridge",
            gateway.name.instance(),
            gateway.segment
        )));
    }
    Ok(match found.properties.get(KEY) {
        None => maker(&found),
        Some(_) if found.status != Status::Running => Found::Stopped {
            created_at: found.created_at,
        },
        Some(version) if *version != inside::version() => Found::Outdated,
        Some(_) => Found::Running,
    })
}

/// Removes a gateway that cannot be started, and no other that has taken its
/// place meanwhile.
async fn discard(sandbox: &dyn Sandbox, gateway: &Gateway, created_at: i64) -> Result<()> {
    match sandbox.get(&gateway.name).await {
        Ok(found)
            if found.created_at == created_at
                && found.status == Status::Stopped
                && found.properties.contains_key(KEY) => {}
        Err(error) if !error.is_not_found() => return Err(error),
        _ => return Ok(()),
    }
    match sandbox.destroy(&gateway.name).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn maker(found: &Instance) -> Found {
    let age = time::OffsetDateTime::now_utc().unix_timestamp() - found.created_at;
    match Claim::on(found).map(|claim| claim.maker()) {
        Some(Maker::Alive) => Found::InTheMaking,
        Some(Maker::Elsewhere) if age < ELSEWHERE => Found::InTheMaking,
        _ => Found::HalfMade,
    }
}

async fn make(sandbox: &dyn Sandbox, gateway: &Gateway, claim: &Claim) -> Result<()> {
    sandbox.make_segment(&gateway.segment).await?;
    let mut instead = gateway.subnet.instead().filter(|_| gateway.any_subnet);
    let mut subnet = gateway.subnet;
    loop {
        match try_make(sandbox, gateway, subnet, claim).await {
            Err(sandbox::Error::AlreadyExists(Subject::Route(route))) => {
                let taken = sandbox::Error::AlreadyExists(Subject::Route(route));
                subnet = instead.next().ok_or(taken)?;
                sandbox.destroy(&gateway.name).await?;
            }
            Err(error) => return Err(error),
            Ok(()) => return install(sandbox, gateway).await,
        }
    }
}

/// Made and started, and nothing in it yet.
async fn try_make(
    sandbox: &dyn Sandbox,
    gateway: &Gateway,
    subnet: Subnet,
    claim: &Claim,
) -> Result<()> {
    let mut properties = Properties::from([
        (SUBNET.to_owned(), subnet.to_string()),
        (DNS.to_owned(), gateway.dns.join(",")),
    ]);
    let host = sandbox.host_addresses().await?;
    let host: Vec<String> = host.iter().map(ToString::to_string).collect();
    properties.insert(HOST.to_owned(), host.join(","));
    properties.retain(|_, value| !value.is_empty());
    claim.mark(&mut properties);
    let mut first_boot = identity::first_boot(claim, &gateway.name);
    first_boot.script.insert_str(0, SHUT);
    let spec = CreateSpec {
        name: gateway.name.clone(),
        image: image(sandbox, gateway).await?,
        network: Attachment::Gateway {
            segment: gateway.segment.clone(),
            subnet: subnet.to_string(),
        },
        limits: Limits {
            cpu: None,
            memory: Some(MEMORY),
        },
        properties,
        first_boot,
    };
    let taken = sandbox.create(&spec).await?;
    identity::settle(sandbox, &spec.name, taken).await?;
    sandbox.start(&spec.name).await
}

async fn image(sandbox: &dyn Sandbox, gateway: &Gateway) -> Result<String> {
    let built = sandbox.image_with_prefix(&gateway.built).await?;
    Ok(built.unwrap_or_else(|| gateway.image.clone()))
}

/// Removes the gateway and makes it anew, with the settings of now. Pixels
/// behind it keep their addresses and policies, and have no network meanwhile.
pub async fn rebuild(
    sandbox: &dyn Sandbox,
    cancel: &CancellationToken,
    gateway: &Gateway,
    progress: Progress<'_>,
) -> Result<(), Error> {
    // A gateway that is broken tells nothing, and costs its pixels the answers
    // they hold at this moment.
    let guest = sandbox.guest(&gateway.name);
    let learned = match tokio::time::timeout(LEARNED, inside::learned(&*guest)).await {
        Ok(Ok(learned)) => Some(learned),
        _ => None,
    };
    let before = match sandbox.get(&gateway.name).await {
        Ok(found) => super::subnet(&found),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    progress("removing the gateway");
    let gone = unless_cancelled(cancel, sandbox.destroy(&gateway.name)).await;
    match gone {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let mut gateway = Gateway {
        learned,
        ..gateway.clone()
    };
    if let Some(before) = before.filter(|_| gateway.any_subnet) {
        gateway.subnet = before;
    }
    ensure(sandbox, cancel, &gateway, progress).await?;
    let own = sandbox.get(&gateway.name).await?;
    if super::subnet(&own) != before {
        // Addresses that are no longer the gateway's are given out anew; a pixel
        // takes its own up at its next start or when its lease ends.
        for pixel in sandbox.list().await? {
            if pixel.segment.as_ref() == Some(&gateway.segment) {
                super::admit(sandbox, &gateway, &pixel.name).await?;
            }
        }
    }
    Ok(super::reconcile(sandbox, &gateway).await?)
}

/// Whether its making was cut off, by a command that is gone for certain: it
/// was so before and after the server was done with it.
pub async fn is_half_made(sandbox: &dyn Sandbox, gateway: &Gateway) -> Result<bool> {
    if !matches!(look(sandbox, gateway).await?, Found::HalfMade) {
        return Ok(false);
    }
    sandbox.settle(&gateway.name).await?;
    Ok(matches!(look(sandbox, gateway).await?, Found::HalfMade))
}

/// Removes what [`is_half_made`]; anything else stays.
pub async fn remove_half_made(sandbox: &dyn Sandbox, gateway: &Gateway) -> Result<()> {
    if !is_half_made(sandbox, gateway).await? {
        return Ok(());
    }
    match sandbox.destroy(&gateway.name).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Removes the gateway and its segment. Missing counts as done; with pixels
/// behind it, it stays and the error names them.
pub async fn remove(sandbox: &dyn Sandbox, gateway: &Gateway) -> Result<()> {
    let pixels = sandbox.list().await?;
    let behind: Vec<&str> = pixels
        .iter()
        .filter(|pixel| pixel.segment.as_ref() == Some(&gateway.segment))
        .map(|pixel| pixel.name.as_str())
        .collect();
    if !behind.is_empty() {
        return Err(sandbox::Error::Invalid(format!(
            "these pixels have no network without the gateway {}: {}",
            gateway.name.instance(),
            behind.join(", ")
        )));
    }
    match look(sandbox, gateway).await? {
        Found::Nothing => {}
        Found::InTheMaking => {
            return Err(sandbox::Error::Invalid(format!(
                "the gateway {} is being made by another command",
                gateway.name.instance()
            )));
        }
        _ => match sandbox.destroy(&gateway.name).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        },
    }
    sandbox.remove_segment(&gateway.segment).await
}

/// Puts the files in and says so on record.
async fn install(sandbox: &dyn Sandbox, gateway: &Gateway) -> Result<()> {
    let found = sandbox.get(&gateway.name).await?;
    let subnet = super::subnet(&found).unwrap_or(gateway.subnet);
    let guest = sandbox.guest(&gateway.name);
    inside::install(&*guest, subnet, gateway.learned.clone()).await?;
    let properties = Properties::from([(KEY.to_owned(), inside::version())]);
    sandbox.set_properties(&gateway.name, &properties).await
}
