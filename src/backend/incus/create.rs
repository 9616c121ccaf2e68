//! Creates instances from images, or as copies of other instances.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::devices::{Devices, Placement, Resolver, SIZE};
use super::error::Failure;
use super::messages::Meaning;
use super::port_security::{self, Port};
use super::wire::pairs;
use super::{cpu_files, host_filter, images, init_script, instances};
use crate::model::{
    Attachment, CreateSpec, Error, FirstBoot, ForkSpec, InitScript, Limits, Name, Properties,
    Result, Subject,
};

/// The API extension for `security.guestapi=false`. Without this setting,
/// pixels would have the device `/dev/incus`.
const NO_GUEST_API: &str = "restrict_dev_incus";
/// Deadline of a creation, including the download from the image server.
const CREATE: Duration = Duration::from_secs(15 * 60);
const COPY: Duration = Duration::from_secs(5 * 60);
/// Separate user ids for each pixel, so that a pixel cannot access other pixels'
/// files, or exhaust limits that the kernel counts only for a user id (such as
/// keys). The kernel counts inotify and fanotify objects also for the host's root
/// user, and some limits for the machine: `pixels setup` raises these limits.
const ISOLATED: &str = "security.idmap.isolated";
/// Limit for the number of processes in a pixel, against fork bombs.
const PROCESSES: &str = "8192";
/// System calls denied in addition to the daemon's list. AF_VSOCK (40) connects to
/// the hypervisor and to other machines outside of any network namespace, so a
/// gateway cannot filter it. The kernel reads 32 bits of the argument. io_uring
/// opens sockets without the system call; programs use other calls if it is missing.
/// The ioctls (0x50009401, …0e, …17 and …18) create btrfs subvolumes, to which the
/// disk limit does not apply; programs that get ENOTTY create directories.
pub(super) const DENIED_SYSCALLS: &str = "socket errno 97 [0,40,SCMP_CMP_MASKED_EQ,4294967295]\n\
                               io_uring_setup errno 38\n\
                               ioctl errno 25 [1,1342215169,SCMP_CMP_MASKED_EQ,4294967295]\n\
                               ioctl errno 25 [1,1342215182,SCMP_CMP_MASKED_EQ,4294967295]\n\
                               ioctl errno 25 [1,1342215191,SCMP_CMP_MASKED_EQ,4294967295]\n\
                               ioctl errno 25 [1,1342215192,SCMP_CMP_MASKED_EQ,4294967295]";
pub(super) const SYSCALLS_KEY: &str = "security.syscalls.deny";

pub(super) async fn create(
    client: &Client,
    image_server: &str,
    placement: &Placement,
    spec: &CreateSpec,
) -> Result<InitScript> {
    let image = spec.image.strip_prefix("images:").unwrap_or(&spec.image);
    let resolver = Resolver::new(client, placement);
    let (devices, local, ()) = tokio::try_join!(
        resolver.all(&spec.network, spec.limits.disk),
        images::has(client, &spec.image),
        client.require(NO_GUEST_API)
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
    let port = Port::find(&spec.name.instance(), &devices);
    let mut raw_lxc = RawLxc::new(&spec.first_boot, port.as_ref());
    if let Attachment::Gateway { subnet, .. } = &spec.network {
        raw_lxc.lines.extend(host_filter::hooks(subnet));
        body["config"]["boot.autostart"] = "true".into();
        // The gateway must start before the pixels on the isolated bridge.
        body["config"]["boot.autostart.priority"] = "100".into();
    }
    create_instance(client, &mut body, &raw_lxc, "creating the pixel", CREATE)
        .await
        .map_err(|failure| {
            let about_image = match local {
                true => None,
                false => images::download_error(image, image_server, &failure),
            };
            about_image.unwrap_or_else(|| create_error(client, &spec.name, failure))
        })
}

/// Copies a pixel or a checkpoint. The server generates a new MAC address for
/// the copy, because the request omits `volatile.eth0.hwaddr`.
pub(super) async fn fork(
    client: &Client,
    placement: &Placement,
    spec: &ForkSpec,
) -> Result<InitScript> {
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
    let mut devices = match &spec.network {
        Some(network) => {
            let resolver = Resolver::new(client, placement);
            resolver.interfaces(network).await?
        }
        None => Devices::new(),
    };
    let port = Port::find(&spec.name.instance(), &devices);
    if let Some(bytes) = spec.limits.disk {
        let mut root = instances::root_disk(client, from).await?;
        root.insert(SIZE.into(), bytes.to_string());
        devices.insert("root".into(), root);
    }
    body["devices"] = json!(devices);
    let raw_lxc = RawLxc::new(&spec.first_boot, port.as_ref());
    match create_instance(client, &mut body, &raw_lxc, "copying the pixel", COPY).await {
        Ok(init_script) => Ok(init_script),
        Err(failure) if failure.is_not_found() => Err(missing_source(client, spec).await),
        Err(failure) => Err(create_error(client, &spec.name, failure)),
    }
}

fn create_error(client: &Client, name: &Name, failure: Failure) -> Error {
    match failure.meaning() {
        Some(Meaning::RawLxcDenied) => port_security::denied(client),
        _ => failure.into_error_for(Subject::pixel(name)),
    }
}

/// Returns an error that names the missing source: the pixel or the checkpoint.
async fn missing_source(client: &Client, spec: &ForkSpec) -> Error {
    let from = &spec.from.pixel;
    match (instances::get(client, from).await, &spec.from.label) {
        (Ok(_), Some(label)) => Error::NotFound(Subject::checkpoint(from, label)),
        (Err(error), _) => error,
        (Ok(_), None) => Error::NotFound(Subject::pixel(from)),
    }
}

/// The configuration of a new instance. A limit of `None` keeps the source's
/// limit. Without a source, the instance has no limit.
fn config(limits: &Limits, properties: &Properties) -> BTreeMap<String, String> {
    let mut config = pairs(&[
        ("security.privileged", "false"),
        ("security.guestapi", "false"),
        ("security.nesting", "false"),
        (SYSCALLS_KEY, DENIED_SYSCALLS),
        ("limits.processes", PROCESSES),
    ]);
    if let Some(cpu) = &limits.cpu {
        config.insert("limits.cpu".into(), cpu.clone());
    }
    if let Some(memory) = limits.memory {
        config.insert("limits.memory".into(), memory.to_string());
    }
    config.extend(instances::with_prefix(properties));
    config
}

/// The value of `raw.lxc`: the init script and hooks.
struct RawLxc {
    lines: Vec<String>,
    /// The instance must not run without the value.
    is_required: bool,
}

impl RawLxc {
    /// `port`: the port to secure, for instances on an isolated bridge.
    fn new(first_boot: &FirstBoot, port: Option<&Port>) -> Self {
        let lines = [init_script::config(first_boot), cpu_files::hook()];
        Self {
            lines: lines.into_iter().chain(port.map(Port::hook)).collect(),
            is_required: port.is_some(),
        }
    }
}

/// Creates an instance and waits until the operation ends. Retries without
/// separate user ids, and without `raw.lxc` if not required, if the server denies
/// these settings.
async fn create_instance(
    client: &Client,
    body: &mut Value,
    raw_lxc: &RawLxc,
    doing: &str,
    deadline: Duration,
) -> Result<InitScript, Failure> {
    body["config"][init_script::KEY] = raw_lxc.lines.join("\n").into();
    body["config"][ISOLATED] = "true".into();
    let mut init_script = InitScript::Applied;
    loop {
        let created = client.run(Method::POST, "/1.0/instances", body, doing, deadline);
        let Err(failure) = created.await else {
            return Ok(init_script);
        };
        let denied = match failure.meaning() {
            Some(Meaning::NoIdRange) => ISOLATED,
            Some(Meaning::RawLxcDenied) if !raw_lxc.is_required => init_script::KEY,
            _ => return Err(failure),
        };
        // The server rejects the key even with an empty value.
        let config = body["config"].as_object_mut();
        if config.is_none_or(|config| config.remove(denied).is_none()) {
            return Err(failure);
        }
        tracing::debug!(%failure, "creating without {denied}");
        if denied == init_script::KEY {
            init_script = InitScript::Unsupported;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_instance_is_unprivileged_without_guest_api() {
        let config = config(
            &Limits {
                cpu: Some("2".into()),
                memory: Some(1024),
                disk: None,
            },
            &Properties::from([("base".into(), "dev".into())]),
        );
        assert_eq!(config["security.privileged"], "false");
        assert_eq!(config["security.guestapi"], "false");
        assert_eq!(config["limits.memory"], "1024");
        assert_eq!(config["user.pixels.base"], "dev");
    }
}
