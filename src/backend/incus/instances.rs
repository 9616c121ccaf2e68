//! Instances: create, copy, state changes, listing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encode};
use super::devices::{self, Placement};
use super::failure::Failure;
use super::first_boot;
use super::segments;
use super::wire::{self, ImageAlias, Lease, NetworkState, Operation, State};
use crate::retry;
use crate::sandbox::{
    Attachment, CreateSpec, Error, FirstBoot, ForkSpec, Instance, Label, Limits, Name, Properties,
    Result, Status, Subject, Taken, Usage,
};

/// What pixels knows about a pixel stands in instance keys below this prefix.
pub(super) const PROPERTIES: &str = "user.pixels.";
/// The extension for `security.guestapi`: without it the pixel would come up
/// with `/dev/incus` in it.
const NO_GUEST_API: &str = "restrict_dev_incus";
/// With a download from the image server.
const CREATE: Duration = Duration::from_secs(15 * 60);
const COPY: Duration = Duration::from_secs(5 * 60);
const STATE: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(60);
/// How long another operation on the same instance is waited for.
const BUSY: Duration = Duration::from_secs(30);
/// User ids of its own: no pixel can use up what the kernel counts per user
/// (inotify instances, keys) for the others, or touch their files.
const ISOLATED: &str = "security.idmap.isolated";
/// Processes in one pixel; a fork bomb stops here.
const PROCESSES: &str = "8192";

/// Given by the server when an instance is made.
const MAC: &str = "volatile.eth0.hwaddr";

const RUNNING: u32 = 103;
const STOPPED: u32 = 102;
const FAILED: u32 = 112;

pub(super) fn path(name: &Name) -> String {
    format!("/1.0/instances/{}", encode(&name.instance()))
}

/// Whether the server has an image of this alias itself.
pub(super) async fn has_image(client: &Client, alias: &str) -> Result<bool> {
    let path = format!("/1.0/images/aliases/{}", encode(alias));
    match client.get::<ImageAlias>(&path).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure.plain()),
    }
}

pub(super) async fn image_with_prefix(client: &Client, prefix: &str) -> Result<Option<String>> {
    let aliases: Vec<ImageAlias> = client
        .get("/1.0/images/aliases?recursion=1")
        .await
        .map_err(Failure::plain)?;
    let names = aliases.into_iter().map(|alias| alias.name);
    Ok(names.filter(|name| name.starts_with(prefix)).max())
}

pub(super) async fn create(
    client: &Client,
    image_server: &str,
    placement: &Placement,
    spec: &CreateSpec,
) -> Result<Taken> {
    let image = spec.image.strip_prefix("images:").unwrap_or(&spec.image);
    let able = async { client.require(NO_GUEST_API).await.map_err(Failure::plain) };
    let (devices, local, ()) = tokio::try_join!(
        devices::plan(client, placement, &spec.network),
        has_image(client, &spec.image),
        able
    )?;
    let source = if local {
        json!({"type": "image", "alias": spec.image})
    } else {
        json!({
            "type": "image",
            "alias": image,
            "server": image_server,
            "protocol": "simplestreams",
        })
    };
    let mut body = json!({
        "name": spec.name.instance(),
        "type": "container",
        "profiles": [],
        "config": config(&spec.limits, &spec.properties),
        "devices": devices,
        "source": source,
    });
    if matches!(spec.network, Attachment::Gateway { .. }) {
        body["config"]["boot.autostart"] = "true".into();
        // Before the pixels that need it.
        body["config"]["boot.autostart.priority"] = "100".into();
    }
    let first = &spec.first_boot;
    match make(client, &mut body, first, "creating the pixel", CREATE).await {
        Err(failure) if !local && image_fault(&failure) => {
            Err(no_image(image, image_server, failure))
        }
        Err(failure) => Err(failure.about(Subject::pixel(&spec.name))),
        Ok(taken) => Ok(taken),
    }
}

fn image_fault(failure: &Failure) -> bool {
    matches!(failure, Failure::Api { message, .. }
        if message.contains("image") || message.contains("Image") || message.contains("simplestreams"))
}

fn no_image(image: &str, server: &str, failure: Failure) -> Error {
    match failure {
        Failure::Api { message, .. } if message.contains("found") => {
            tracing::debug!(message, "image server");
            Error::NotFound(Subject::Image(image.to_owned()))
        }
        other => Error::Unreachable {
            endpoint: format!("the image server {server}, which is needed for image {image:?}"),
            reason: other.to_string(),
        },
    }
}

pub(super) async fn fork(client: &Client, placement: &Placement, spec: &ForkSpec) -> Result<Taken> {
    let from = &spec.from.pixel;
    let source = match &spec.from.label {
        None => from.instance(),
        Some(label) => format!("{}/{label}", from.instance()),
    };
    let mut body = json!({
        "name": spec.name.instance(),
        "config": config(&spec.limits, &spec.properties),
        "source": {"type": "copy", "source": source, "instance_only": true},
    });
    if let Some(network) = &spec.network {
        let mut devices = devices::plan(client, placement, network).await?;
        // The disk is the source's.
        devices.remove("root");
        body["devices"] = json!(devices);
    }
    let first = &spec.first_boot;
    match make(client, &mut body, first, "copying the pixel", COPY).await {
        Ok(taken) => Ok(taken),
        Err(failure) if failure.is_not_found() => Err(missing_source(client, spec).await),
        Err(failure) => Err(failure.about(Subject::pixel(&spec.name))),
    }
}

/// Which half of `box:ready` does not exist.
async fn missing_source(client: &Client, spec: &ForkSpec) -> Error {
    let from = &spec.from.pixel;
    match (get(client, from).await, &spec.from.label) {
        (Ok(_), Some(label)) => Error::NotFound(Subject::checkpoint(from, label)),
        (Err(error), _) => error,
        (Ok(_), None) => Error::NotFound(Subject::pixel(from)),
    }
}

/// Limits left open keep what the image or source has, except on creation,
/// where the caller fills them in.
fn config(limits: &Limits, properties: &Properties) -> BTreeMap<String, String> {
    let mut config: BTreeMap<String, String> = [
        ("security.privileged", "false"),
        ("security.guestapi", "false"),
        ("security.nesting", "false"),
        ("limits.processes", PROCESSES),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    if let Some(cpu) = &limits.cpu {
        config.insert("limits.cpu".into(), cpu.clone());
    }
    if let Some(memory) = limits.memory {
        config.insert("limits.memory".into(), memory.to_string());
    }
    config.extend(with_prefix(properties));
    config
}

fn with_prefix(properties: &Properties) -> BTreeMap<String, String> {
    properties
        .iter()
        .map(|(key, value)| (format!("{PROPERTIES}{key}"), value.clone()))
        .collect()
}

/// Makes an instance, with its first boot where the server allows that.
async fn make(
    client: &Client,
    body: &mut Value,
    first: &FirstBoot,
    doing: &str,
    deadline: Duration,
) -> Result<Taken, Failure> {
    body["config"][first_boot::KEY] = first_boot::config(first).into();
    body["config"][ISOLATED] = "true".into();
    let mut done = Taken::Yes;
    loop {
        let outcome = match client.start(Method::POST, "/1.0/instances", body).await {
            Ok(running) => running.wait(doing, deadline).await,
            Err(failure) => Err(failure),
        };
        let refused = match outcome {
            Ok(_) => return Ok(done),
            Err(Failure::Api { message, .. })
                if body["config"].get(ISOLATED).is_some() && no_range(&message) =>
            {
                tracing::debug!(message, "no range of user ids of its own");
                ISOLATED
            }
            Err(Failure::Api { message, .. })
                if body["config"].get(first_boot::KEY).is_some()
                    && first_boot::refused(&message) =>
            {
                tracing::debug!(message, "no first boot script");
                done = Taken::No;
                first_boot::KEY
            }
            Err(failure) => return Err(taken(failure)),
        };
        // Even an empty value is refused.
        if let Some(config) = body["config"].as_object_mut() {
            config.remove(refused);
        }
    }
}

/// The server has no range of user ids left, or does not let us have one.
fn no_range(message: &str) -> bool {
    message.contains("uid/gid") || message.contains(ISOLATED)
}

/// Somebody else is making an instance of that name at this moment: the
/// daemon calls it busy, for us the name is taken.
fn taken(failure: Failure) -> Failure {
    match failure {
        Failure::Api { message, .. }
            if message.contains("creating instance record") && message.contains("is busy") =>
        {
            Failure::Api { code: 409, message }
        }
        other => other,
    }
}

async fn change(client: &Client, name: &Name, body: Value, doing: &str) -> Result<(), Failure> {
    let path = format!("{}/state", path(name));
    let running = client.start(Method::PUT, &path, &body).await?;
    running.wait(doing, STATE).await.map(drop)
}

/// Another operation on the instance is under way: not a failure yet.
fn busy(failure: &Failure) -> bool {
    matches!(failure, Failure::Api { message, .. }
        if message.contains("is busy running")
            || message.contains("operation is already in progress")
            || message.contains("matching non-reusable operation"))
}

/// Repeats `attempt` while the instance is busy with something else.
pub(super) async fn when_free<F>(attempt: impl Fn() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    retry::until(BUSY, || async {
        match attempt().await {
            Err(failure) if busy(&failure) => retry::Next::Again(failure),
            other => retry::Next::Done(other),
        }
    })
    .await
    .unwrap_or_else(Err)
}

pub(super) async fn start(client: &Client, name: &Name) -> Result<()> {
    let body = json!({"action": "start", "timeout": -1});
    let outcome = when_free(|| change(client, name, body.clone(), "starting the pixel")).await;
    if let Err(Failure::Api { message, .. }) = &outcome
        && let Some(route) = taken_route(message)
    {
        return Err(Error::AlreadyExists(Subject::Route(route)));
    }
    reached(client, name, outcome, Status::Running).await
}

/// The network of an interface's `ipv4.routes` to which the host has a route.
fn taken_route(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("ip -4 route add ")?;
    let (route, rest) = rest.split_once(' ')?;
    rest.contains("File exists").then(|| route.to_owned())
}

pub(super) async fn stop(client: &Client, name: &Name, grace: Duration) -> Result<()> {
    let gentle = json!({"action": "stop", "timeout": grace.as_secs()});
    let force = json!({"action": "stop", "timeout": -1, "force": true});
    let ask =
        |body: Value| when_free(move || change(client, name, body.clone(), "stopping the pixel"));
    let outcome = if grace.is_zero() {
        ask(force).await
    } else {
        match ask(gentle).await {
            Err(Failure::Api { code, message })
                if code != 404 && !message.contains("already stopped") =>
            {
                tracing::debug!(message, "graceful stop failed, forcing");
                ask(force).await
            }
            other => other,
        }
    };
    reached(client, name, outcome, Status::Stopped).await
}

/// A failed state change whose goal is reached all the same counts as done.
async fn reached(
    client: &Client,
    name: &Name,
    outcome: Result<(), Failure>,
    goal: Status,
) -> Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(failure @ Failure::Api { .. }) => match get(client, name).await {
            Ok(instance) if instance.status == goal => Ok(()),
            Ok(_) => Err(failure.about(Subject::pixel(name))),
            Err(error) => Err(error),
        },
        Err(failure) => Err(failure.about(Subject::pixel(name))),
    }
}

/// Stopped, and then deleted: again when it was busy or had been started
/// in between.
pub(super) async fn destroy(client: &Client, name: &Name) -> Result<()> {
    let target = path(name);
    let again = |failure: &Failure| {
        busy(failure)
            || matches!(failure, Failure::Api { message, .. } if message.contains("is running"))
    };
    let delete = async || {
        let running = client.start(Method::DELETE, &target, &json!({})).await?;
        running.wait("deleting the pixel", STATE).await.map(drop)
    };
    retry::until(BUSY, || async {
        if let Err(error) = stop(client, name, Duration::ZERO).await {
            return retry::Next::Done(Err(error));
        }
        match delete().await {
            Err(failure) if again(&failure) => retry::Next::Again(failure),
            outcome => {
                retry::Next::Done(outcome.map_err(|failure| failure.about(Subject::pixel(name))))
            }
        }
    })
    .await
    .unwrap_or_else(|failure| Err(failure.about(Subject::pixel(name))))
}

pub(super) async fn get(client: &Client, name: &Name) -> Result<Instance> {
    let found: wire::Instance = client
        .get(&path(name))
        .await
        .map_err(|failure| failure.about(Subject::pixel(name)))?;
    Ok(instance(found, name.clone()))
}

/// One request for all instances and one per network for the addresses:
/// asking for every instance's state costs the daemon tens of milliseconds each.
pub(super) async fn list(client: &Client) -> Result<Vec<Instance>> {
    let all: Vec<wire::Instance> = client
        .get("/1.0/instances?instance-type=container&recursion=1")
        .await
        .map_err(Failure::plain)?;
    let ours: Vec<wire::Instance> = all
        .into_iter()
        .filter(|i| Name::from_instance(&i.name).is_some())
        .collect();
    let networks: BTreeSet<&str> = ours
        .iter()
        .filter(|i| i.status_code == RUNNING)
        .filter(|i| segments::of(i).is_none())
        .filter_map(|i| i.expanded_devices.get("eth0")?.get("network"))
        .map(String::as_str)
        .collect();
    let mut leases: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    for network in networks {
        let path = format!("/1.0/networks/{}/leases", encode(network));
        let found: Vec<Lease> = match client.get(&path).await {
            Ok(found) => found,
            // Addresses are an extra: a network without leases still lists.
            Err(Failure::Api { code, message }) => {
                tracing::debug!(network, code, message, "no leases");
                continue;
            }
            Err(failure) => return Err(failure.plain()),
        };
        for lease in found {
            if let Ok(address) = lease.address.parse() {
                leases.insert(lease.hwaddr, address);
            }
        }
    }
    let mut pixels: Vec<Instance> = ours
        .into_iter()
        .filter_map(|found| {
            let lease = (found.status_code == RUNNING)
                .then(|| found.config.get(MAC))
                .flatten()
                .and_then(|mac| leases.get(mac))
                .copied();
            let name = Name::from_instance(&found.name)?;
            let mut pixel = instance(found, name);
            pixel.addresses.extend(lease);
            Some(pixel)
        })
        .collect();
    pixels.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pixels)
}

pub(super) async fn address(client: &Client, name: &Name) -> Result<Option<Ipv4Addr>> {
    let state: State = client
        .get(&format!("{}/state", path(name)))
        .await
        .map_err(|failure| failure.about(Subject::pixel(name)))?;
    let interfaces = state.network.unwrap_or_default();
    Ok(interfaces.get("eth0").and_then(global_ipv4))
}

pub(super) async fn usage(client: &Client, name: &Name) -> Result<Usage> {
    let state: State = client
        .get(&format!("{}/state", path(name)))
        .await
        .map_err(|failure| failure.about(Subject::pixel(name)))?;
    Ok(measured(state))
}

pub(super) fn measured(state: State) -> Usage {
    let interfaces = state.network.unwrap_or_default();
    let others = interfaces.iter().filter(|(name, _)| *name != "lo");
    let (received, sent) = others.fold((0_u64, 0_u64), |(received, sent), (_, one)| {
        let (more, out) = (one.counters.bytes_received, one.counters.bytes_sent);
        (
            received.saturating_add(amount(more)),
            sent.saturating_add(amount(out)),
        )
    });
    let disks = state.disk.unwrap_or_default();
    Usage {
        cpu: Duration::from_nanos(amount(state.cpu.usage)),
        memory: amount(state.memory.usage),
        disk: disks.get("root").map(|disk| amount(disk.usage)),
        received,
        sent,
        processes: amount(state.processes),
    }
}

fn amount(of: i64) -> u64 {
    u64::try_from(of).unwrap_or(0)
}

fn global_ipv4(interface: &NetworkState) -> Option<Ipv4Addr> {
    interface
        .addresses
        .iter()
        .filter(|a| a.family == "inet" && a.scope == "global")
        .find_map(|a| a.address.parse().ok())
}

pub(super) async fn set_properties(
    client: &Client,
    name: &Name,
    properties: &Properties,
) -> Result<()> {
    let body = json!({"config": with_prefix(properties)});
    let path = path(name);
    // A pixel that is being started takes no change for that moment.
    when_free(|| client.send(Method::PATCH, &path, &body))
        .await
        .map_err(|failure| failure.about(Subject::pixel(name)))
}

/// Waits until the server has no operation under way on the instance, nor any
/// of our requests on its way to it.
pub(super) async fn settle(client: &Client, name: &Name) -> Result<()> {
    client.drain(SETTLE).await;
    let target = path(name);
    let idle = retry::until(SETTLE, || async {
        match under_way(client, &target).await {
            Ok(None) if client.awaits_late_request() => retry::Next::Again(()),
            Ok(None) => retry::Next::Done(Ok(())),
            Ok(Some(id)) => {
                let wait = format!("/1.0/operations/{id}/wait?timeout=5");
                let _ = client.wait_operation(&wait).await;
                retry::Next::Again(())
            }
            Err(failure) => retry::Next::Done(Err(failure.plain())),
        }
    });
    idle.await.unwrap_or_else(|()| {
        Err(Error::TimedOut {
            doing: format!("the server's work on {}", Subject::pixel(name)),
            after: SETTLE,
        })
    })
}

async fn under_way(client: &Client, target: &str) -> Result<Option<String>, Failure> {
    let all: BTreeMap<String, Vec<Operation>> = client.get("/1.0/operations?recursion=1").await?;
    let snapshots = format!("{target}/");
    Ok(all
        .into_values()
        .flatten()
        .filter(|operation| operation.status_code < 200)
        .find(|operation| {
            operation
                .resources
                .iter()
                .flat_map(BTreeMap::values)
                .flatten()
                .map(|resource| resource.split('?').next().unwrap_or(resource))
                .any(|resource| resource == target || resource.starts_with(&snapshots))
        })
        .map(|operation| operation.id))
}

pub(super) fn instance(found: wire::Instance, name: Name) -> Instance {
    let text = |key: &str| found.expanded_config.get(key).cloned();
    let image = text("image.description").or_else(|| {
        let os = text("image.os")?;
        Some(match text("image.release") {
            Some(release) => format!("{os}/{release}"),
            None => os,
        })
    });
    Instance {
        segment: segments::of(&found),
        mac: found.config.get(MAC).cloned(),
        name,
        status: match found.status_code {
            RUNNING => Status::Running,
            STOPPED => Status::Stopped,
            FAILED => Status::Failed,
            _ => Status::Changing,
        },
        addresses: Vec::new(),
        created_at: timestamp(&found.created_at),
        started_once: timestamp(&found.last_used_at) > 0,
        image,
        cpu: text("limits.cpu"),
        memory: text("limits.memory"),
        privileged: text("security.privileged").as_deref() == Some("true"),
        properties: properties(&found.config),
    }
}

pub(super) fn properties(config: &BTreeMap<String, String>) -> Properties {
    config
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(PROPERTIES)?.to_owned(), value.clone())))
        .collect()
}

/// Seconds since 1970 of the daemon's time stamps; an unset one is far in the past.
pub(super) fn timestamp(text: &str) -> i64 {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_or(0, time::OffsetDateTime::unix_timestamp)
}

pub(super) fn label(text: &str) -> Option<Label> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_time_stamps_are_not_a_start() {
        assert!(timestamp("1970-01-01T00:00:00Z") <= 0);
        assert!(timestamp("0001-01-01T00:00:00Z") <= 0);
        assert!(timestamp("2026-11-23T14:07:46.252698822Z") > 0);
        assert_eq!(timestamp("nonsense"), 0);
    }

    #[test]
    fn a_new_pixel_is_unprivileged_and_keeps_the_guest_api_shut() {
        let config = config(
            &Limits {
                cpu: Some("2".into()),
                memory: Some(1024),
            },
            &Properties::from([("base".into(), "dev".into())]),
        );
        assert_eq!(config["security.privileged"], "false");
        assert_eq!(config["security.guestapi"], "false");
        assert_eq!(config["limits.memory"], "1024");
        assert_eq!(config["user.pixels.base"], "dev");
    }

    #[test]
    fn the_primary_address_is_the_interface_of_ours() {
        let interface: NetworkState = serde_json::from_value(json!({"addresses": [
            {"family": "inet6", "address": "fe80::1", "scope": "link"},
            {"family": "inet", "address": "10.1.2.3", "scope": "global"},
        ]}))
        .unwrap();
        assert_eq!(global_ipv4(&interface), Some(Ipv4Addr::new(10, 1, 2, 3)));
    }
}
