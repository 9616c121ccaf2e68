//! Secures the bridge ports of instances on isolated bridges: an LXC hook in an
//! instance's configuration runs `host/port-security.sh` at each start.
//! Also updates the system calls that the configuration denies.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;

use super::client::Client;
use super::create::{DENIED_SYSCALLS, SYSCALLS_KEY};
use super::devices::Devices;
use super::error::Failure;
use super::init_script::{self, one_line};
use super::messages::Meaning;
use super::operation::retry_while_busy;
use super::wire;
use super::{cpu_files, instances, isolated_bridge};
use crate::model::{Error, Name, Reason, Result, Subject, shell_quote};

pub(super) const SCRIPT: &str = include_str!("host/port-security.sh");
const HOOK: &str = "lxc.hook.start-host = /bin/sh -c '";
/// The shell's name for the script, which distinguishes the hook from other hooks.
const SHELL_NAME: &str = "' pixels-port-security ";
/// Prefix of the script's line in `lxc.log` that has the reason for a failure.
const FAILED: &str = "pixels: ";
/// Prefix of the line in `lxc.log` after a success.
const SECURED: &str = "pixels secured ";

/// The port of an instance on an isolated bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The interface in the instance.
    pub interface: &'static str,
    pub bridge: String,
}

impl Port {
    /// Returns the port of a pixel or gateway with these devices.
    pub(super) fn find(instance: &str, devices: &Devices) -> Option<Self> {
        if let Some(bridge) = isolated_bridge::bridge_of(devices) {
            let interface = "eth0";
            return Some(Self { interface, bridge });
        }
        let bridge = devices.get("eth1")?.get("network")?;
        let gateways = [Name::gateway(None), Name::gateway(Some(bridge))];
        let is_gateway = gateways.iter().any(|name| name.instance() == instance);
        is_gateway.then(|| Self {
            interface: "eth1",
            bridge: bridge.clone(),
        })
    }

    /// Returns the line of `raw.lxc` with the hook of this version.
    pub(super) fn hook(&self) -> String {
        let script = one_line(SCRIPT);
        let bridge = shell_quote(&self.bridge);
        format!("{HOOK}{script}{SHELL_NAME}{} {bridge}", self.interface)
    }
}

/// Returns a value of `raw.lxc` with the hooks for `port` and without hooks of
/// other versions or ports.
fn replace_hooks(raw_lxc: &str, port: Option<&Port>) -> String {
    let is_hook = |line: &str| {
        line.starts_with(HOOK) && line.contains(SHELL_NAME)
            || port.is_some() && cpu_files::is_hook(line)
    };
    let mut lines: Vec<String> = raw_lxc
        .lines()
        .filter(|line| !is_hook(line))
        .map(str::to_owned)
        .collect();
    if let Some(port) = port {
        lines.extend([cpu_files::hook(), port.hook()]);
    }
    lines.join("\n")
}

/// Returns the value of `raw.lxc` that an instance or a snapshot with this
/// configuration needs, or `None` if the configuration has this value.
pub(super) fn missing(config: &BTreeMap<String, String>, port: Option<&Port>) -> Option<String> {
    let current = config.get(init_script::KEY).map_or("", String::as_str);
    let needed = replace_hooks(current, port);
    (needed != current).then_some(needed)
}

/// Adds the hooks to the configuration of an instance on an isolated bridge, or
/// removes the hook for the port of an instance on another network. Adds missing
/// lines of [`DENIED_SYSCALLS`]. Takes effect at the next start.
/// Fails with `Error::Unsupported` if the project does not allow hooks.
pub(super) async fn ensure(client: &Client, name: &Name) -> Result<()> {
    let found: wire::Instance = client
        .get(&instances::path(name))
        .await
        .map_err(|failure| failure.into_error_for(Subject::pixel(name)))?;
    let outcome = update(client, &found).await;
    outcome
        .map(drop)
        .map_err(|failure| match failure.meaning() {
            Some(Meaning::RawLxcDenied) => denied(client),
            _ => failure.into_error_for(Subject::pixel(name)),
        })
}

/// Like [`ensure`], for all instances on `bridge`. Returns the names of the
/// instances whose configuration has changed.
pub(super) async fn ensure_all(client: &Client, bridge: &str) -> Result<Vec<String>> {
    let all: Vec<wire::Instance> = client
        .get("/1.0/instances?instance-type=container&recursion=1")
        .await?;
    let mut changed = Vec::new();
    for instance in all {
        let port = Port::find(&instance.name, &instance.expanded_devices);
        if port.is_none_or(|port| port.bridge != bridge) {
            continue;
        }
        match update(client, &instance).await {
            Ok(true) => changed.push(instance.name),
            Ok(false) => {}
            // Another command has deleted the instance.
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure.into_error_for(Subject::Other(instance.name))),
        }
    }
    Ok(changed)
}

/// Returns the value of `security.syscalls.deny` with all lines of
/// [`DENIED_SYSCALLS`], or `None` if the configuration has all lines.
pub(super) fn missing_syscalls(config: &BTreeMap<String, String>) -> Option<String> {
    let current = config.get(SYSCALLS_KEY).map_or("", String::as_str);
    let mut lines: Vec<&str> = current.lines().collect();
    let missing = DENIED_SYSCALLS.lines().filter(|line| !lines.contains(line));
    let missing: Vec<&str> = missing.collect();
    lines.extend(&missing);
    (!missing.is_empty()).then(|| lines.join("\n"))
}

/// Returns whether the configuration has changed.
async fn update(client: &Client, instance: &wire::Instance) -> Result<bool, Failure> {
    let port = Port::find(&instance.name, &instance.expanded_devices);
    let mut config = BTreeMap::new();
    if let Some(hooks) = missing(&instance.config, port.as_ref()) {
        config.insert(init_script::KEY, hooks);
    }
    if let Some(syscalls) = missing_syscalls(&instance.config) {
        config.insert(SYSCALLS_KEY, syscalls);
    }
    if config.is_empty() {
        return Ok(false);
    }
    let path = instances::path_of(&instance.name);
    let body = json!({"config": config});
    retry_while_busy(|| client.send(Method::PATCH, &path, &body)).await?;
    Ok(true)
}

/// The error for a project that does not allow hooks.
pub(super) fn denied(client: &Client) -> Error {
    let project = client.project().unwrap_or("default");
    let reason = format!(
        "project {project:?} does not allow raw.lxc, which secures the ports of its bridge"
    );
    Error::Unsupported {
        operation: "an egress gateway".into(),
        reason: Reason::from(reason).with_hint(format!(
            "run: incus project set {project} restricted.containers.lowlevel=allow, or set \
             network.placement to \"pixel\""
        )),
    }
}

/// Returns the error of the hook that prevented the last start of an instance.
/// `None` if the start failed for another reason.
pub(super) async fn start_error(client: &Client, name: &Name) -> Option<Error> {
    let log = read_log(client, &name.instance()).await.ok()?;
    let reason = log.lines().find_map(|line| line.strip_prefix(FAILED))?;
    Some(Error::Unsupported {
        operation: format!("securing the network of {}", name.instance()),
        reason: Reason::from(reason.trim()).with_hint(
            "install the packages ethtool, iproute2, nftables and util-linux on the server, or \
             set network.placement to \"pixel\"",
        ),
    })
}

/// Whether the hook secured the port at the last start of a running instance.
pub(super) async fn is_secured(client: &Client, instance: &str) -> Result<bool, Failure> {
    let log = read_log(client, instance).await?;
    Ok(log.lines().any(|line| line.starts_with(SECURED)))
}

async fn read_log(client: &Client, instance: &str) -> Result<String, Failure> {
    let path = format!("{}/logs/lxc.log", instances::path_of(instance));
    client.text(&path).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn port(interface: &'static str) -> Port {
        Port {
            interface,
            bridge: "pixels0".into(),
        }
    }

    #[test]
    fn hooks_are_replaced_and_other_lines_are_kept() {
        let init = "lxc.init.cmd = /bin/sh\nlxc.hook.start-host = /bin/true";
        let pixel = replace_hooks(init, Some(&port("eth0")));
        assert_eq!(pixel.lines().count(), 4);
        assert!(pixel.starts_with(init));
        assert!(pixel.ends_with("' pixels-port-security eth0 pixels0"));
        assert_eq!(replace_hooks(&pixel, Some(&port("eth0"))), pixel);
        let other = replace_hooks(&pixel, Some(&port("eth1")));
        assert!(other.ends_with(" eth1 pixels0") && other.lines().count() == 4);
        let external = replace_hooks(&pixel, None);
        assert_eq!(external, [init, &cpu_files::hook()].join("\n"));
    }

    /// Runs the hook of an interface with simulated tools. Returns the exit code and
    /// the log.
    fn run(interface: &'static str, tools: &[(&str, &str)]) -> (i32, String) {
        let dir = tempfile::tempdir().unwrap();
        for (tool, script) in tools {
            let path = dir.path().join(tool);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        for tool in ["tr", "cat"] {
            let real = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(tool));
            let real = real.iter().find(|path| path.exists()).unwrap();
            std::os::unix::fs::symlink(real, dir.path().join(tool)).unwrap();
        }
        let line = port(interface).hook();
        let (_, command) = line.split_once(" = ").unwrap();
        let (before, after) = command.split_once("PATH=").unwrap();
        let (_, after) = after.split_once(';').unwrap();
        let status = Command::new("/bin/sh")
            .args(["-c", &format!("{before}{after}")])
            .env("PATH", dir.path())
            .env("LXC_PID", "1")
            .env("LXC_CONSOLE_LOGPATH", dir.path().join("console.log"))
            .env("OUT", dir.path().join("lxc.log"))
            .status()
            .unwrap();
        let log = std::fs::read_to_string(dir.path().join("lxc.log")).unwrap_or_default();
        (status.code().unwrap(), log)
    }

    #[test]
    fn hook_configures_the_port_or_fails_with_a_reason() {
        let nsenter = (
            "nsenter",
            "echo '7: eth0@if8: <UP> mtu 1500 link/ether 00:16:3e:01:02:ff brd ff:ff:ff:ff:ff:ff'",
        );
        let bridge = ("bridge", "cat >>\"$OUT\"");
        let tc = ("tc", "cat >>\"$OUT\"");
        let ip = ("ip", "");
        let (code, done) = run("eth0", &[nsenter, ip, bridge, tc]);
        assert_eq!(code, 0, "{done}");
        for part in [
            "link set dev if8 learning off",
            "fdb replace 00:16:3e:01:02:ff dev if8 master static sticky",
            "filter replace dev pixels0 ingress pref 1 handle 1 bpf da bytecode \"1,6 0 0 2\"",
            // The halves of the address.
            ",21 0 14 1457665,40 0 0 10,21 0 12 767,",
        ] {
            assert!(done.contains(part), "{part}: {done}");
        }
        // The kernel rejects a wrong number of instructions.
        for program in done.lines().filter_map(|line| line.split('"').nth(1)) {
            let (count, instructions) = program.split_once(',').unwrap();
            assert_eq!(count, instructions.split(',').count().to_string());
        }
        for (tools, reason) in [
            (&[ip, bridge, tc][..], "the program nsenter is missing"),
            (&[nsenter, ip, tc], "the program bridge is missing"),
            (&[nsenter, ip, bridge], "the program tc is missing"),
            (
                &[("nsenter", "echo no such; exit 1"), ip, bridge, tc],
                "no such",
            ),
            (
                &[nsenter, ip, ("bridge", "echo no port; exit 1"), tc],
                "no port",
            ),
            (
                &[nsenter, ip, bridge, ("tc", "echo x; echo y; exit 1")],
                "x y",
            ),
        ] {
            let (code, log) = run("eth0", tools);
            assert_eq!(code, 1, "{log}");
            let last = log.lines().last().unwrap();
            assert!(last.starts_with(FAILED) && last.contains(reason), "{log}");
        }
        // The hook of a gateway also needs the name of the port: here lo.
        let nsenter = (
            "nsenter",
            "echo '7: eth1@if1: <UP> mtu 1500 link/ether 00:16:3e:01:02:ff'",
        );
        let (code, log) = run("eth1", &[nsenter, ip, bridge, tc]);
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("the program ethtool is missing"), "{log}");
        for tool in ["ethtool", "perl"] {
            let off = (tool, "echo ${0##*/} \"$*\" | tr '\\n' ' ' >>\"$OUT\"");
            let (code, log) = run("eth1", &[nsenter, ip, bridge, tc, off]);
            assert_eq!(code, 0, "{log}");
            assert!(log.contains(tool) && log.contains(" lo "), "{log}");
        }
    }
}
