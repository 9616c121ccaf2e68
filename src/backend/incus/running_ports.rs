//! Lists the ports of running instances on isolated bridges.

use futures_util::future::try_join_all;

use super::client::Client;
use super::error::Failure;
use super::instances::RUNNING;
use super::port_security::{self, Port};
use super::wire;

/// The port of a running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningPort {
    /// The name of the instance.
    pub instance: String,
    pub port: Port,
    /// The interface's MAC address.
    pub mac: String,
    /// The port on the server's host, a network interface.
    pub host_interface: String,
    /// Whether the port was secured when the instance started.
    pub is_secured: bool,
}

/// Returns the ports of all running pixels and gateways on isolated bridges.
pub async fn running_ports(client: &Client) -> Result<Vec<RunningPort>, Failure> {
    let path = "/1.0/instances?instance-type=container&recursion=1";
    let all: Vec<wire::Instance> = client.get(path).await?;
    let running = all.into_iter().filter(|it| it.status_code == RUNNING);
    let ports = running.filter_map(|instance| {
        let port = Port::find(&instance.name, &instance.expanded_devices)?;
        Some(running_port(client, instance, port))
    });
    Ok(try_join_all(ports).await?.into_iter().flatten().collect())
}

/// Returns `None` if the instance has been deleted.
async fn running_port(
    client: &Client,
    instance: wire::Instance,
    port: Port,
) -> Result<Option<RunningPort>, Failure> {
    let volatile = |key: &str| {
        let value = instance
            .config
            .get(&format!("volatile.{}.{key}", port.interface));
        value.cloned().unwrap_or_default()
    };
    let is_secured = match port_security::is_secured(client, &instance.name).await {
        Err(failure) if failure.is_not_found() => return Ok(None),
        outcome => outcome?,
    };
    Ok(Some(RunningPort {
        mac: volatile("hwaddr"),
        host_interface: volatile("host_name"),
        is_secured,
        instance: instance.name,
        port,
    }))
}
