//! Checks that the bridge ports of running pixels and gateways are secured: on
//! this machine if Incus runs here, otherwise by Incus' records.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Check, Verdict, checks, ok, skipped, warning};
use crate::backend::incus::{Client, RunningPort, running_ports};
use crate::host::command::CommandLine;

const NAME: (&str, &str) = ("ports", "network ports of running pixels");

/// A port, and what is missing to secure it.
#[derive(Debug, Clone)]
pub(super) struct PortFacts {
    pub instance: String,
    pub fault: Option<&'static str>,
}

pub(super) fn check_ports(ports: &Result<Vec<PortFacts>, String>) -> Check {
    let verdict = match ports {
        Err(reason) => skipped(reason),
        Ok(ports) => verdict(ports),
    };
    checks(&[NAME], [verdict]).remove(0)
}

fn verdict(ports: &[PortFacts]) -> Verdict {
    let faulty: Vec<(&str, &str)> = ports
        .iter()
        .filter_map(|port| Some((port.instance.as_str(), port.fault?)))
        .collect();
    if faulty.is_empty() {
        return match ports.len() {
            0 => skipped("no pixel behind a gateway is running"),
            count => ok(format!("{count} secured")),
        };
    }
    let described: Vec<String> = faulty
        .iter()
        .map(|(instance, fault)| format!("{instance}: {fault}"))
        .collect();
    let names: Vec<&str> = faulty.iter().map(|(instance, _)| *instance).collect();
    let names = names.join(" ");
    warning(
        format!(
            "not secured, so that root in a pixel may receive packets of others or send packets \
             to the host: {}",
            described.join(", ")
        ),
        match names.contains("px-gateway") {
            true => "pixels network gateway rebuild, then restart the pixels".to_owned(),
            false => format!("restart them: pixels stop {names} && pixels start {names}"),
        },
    )
}

/// Reads the facts of all ports. `is_local`: Incus runs on this machine.
pub(super) async fn read_ports(client: &Client, is_local: bool) -> Result<Vec<PortFacts>, String> {
    let ports = running_ports(client).await.map_err(|e| e.to_string())?;
    let mut addresses = BTreeMap::new();
    let mut facts = Vec::new();
    for port in ports {
        let sys = Path::new("/sys/class/net").join(&port.host_interface);
        // Another member of the cluster runs the instance.
        let is_here = is_local && !port.host_interface.is_empty() && sys.exists();
        let fault = match (port.is_secured, is_here) {
            (false, _) => Some("started without security of its port"),
            (true, false) => None,
            (true, true) => {
                let bridge = &port.port.bridge;
                if !addresses.contains_key(bridge) {
                    let show = ["fdb", "show", "br", bridge];
                    addresses.insert(bridge.clone(), output("bridge", show).await?);
                }
                local_fault(&port, &sys, &addresses[bridge]).await?
            }
        };
        let instance = port.instance;
        facts.push(PortFacts { instance, fault });
    }
    Ok(facts)
}

/// Returns what is missing on this machine. `addresses`: the forwarding
/// database of the bridge.
async fn local_fault(
    port: &RunningPort,
    sys: &Path,
    addresses: &str,
) -> Result<Option<&'static str>, String> {
    let learning = std::fs::read_to_string(sys.join("brport/learning"));
    if learning.is_ok_and(|value| value.trim() != "0") {
        return Ok(Some("its port learns addresses"));
    }
    let entry = format!("{} dev {} ", port.mac, port.host_interface);
    let is_fixed = |line: &str| line.starts_with(&entry) && line.contains("sticky");
    if !addresses.lines().any(is_fixed) {
        return Ok(Some("its address is not fixed to its port"));
    }
    let bridge = port.port.bridge.as_str();
    if !has_filter(bridge, "ingress").await? {
        return Ok(Some("its bridge passes frames to the host"));
    }
    let is_pixel = port.port.interface == "eth0";
    for direction in ["ingress", "egress"] {
        if is_pixel && !has_filter(&port.host_interface, direction).await? {
            return Ok(Some("its port has no filter"));
        }
    }
    Ok(None)
}

async fn has_filter(interface: &str, direction: &str) -> Result<bool, String> {
    let shown = output("tc", ["filter", "show", "dev", interface, direction]).await?;
    Ok(shown.contains(" bpf ") && shown.contains("direct-action"))
}

/// Returns what a command prints.
async fn output<const N: usize>(program: &str, args: [&str; N]) -> Result<String, String> {
    let line = CommandLine::new(program, args);
    let output = line.to_command().output().await;
    let output = output.map_err(|error| format!("cannot run `{line}`: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
