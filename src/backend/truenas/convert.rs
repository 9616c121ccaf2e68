//! Converts the server's instances to the types of the backend API.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::properties::{self, PropertyKey};
use super::wire::{Lxc, Raw, Virt};
use crate::model::{Instance, Name, Properties, Status, Usage};

/// An instance from either API.
#[derive(Debug)]
pub(super) enum Container {
    Virt(Box<Virt>),
    Lxc(Lxc),
}

impl From<Virt> for Container {
    fn from(virt: Virt) -> Self {
        Self::Virt(Box::new(virt))
    }
}

impl Container {
    pub fn name(&self) -> &str {
        match self {
            Self::Virt(virt) => &virt.name,
            Self::Lxc(lxc) => &lxc.name,
        }
    }

    pub fn status(&self) -> Status {
        let state = match self {
            Self::Virt(virt) => &virt.status,
            Self::Lxc(lxc) => &lxc.status.state,
        };
        match state.as_str() {
            "RUNNING" => Status::Running,
            "STOPPED" => Status::Stopped,
            "ERROR" => Status::Failed,
            // Includes states of later releases. The caller polls again.
            _ => Status::Changing,
        }
    }

    pub fn into_instance(self, name: Name) -> Instance {
        let status = self.status();
        match self {
            Self::Virt(virt) => virt.into_instance(name, status),
            Self::Lxc(lxc) => Instance {
                name,
                status,
                addresses: Vec::new(),
                created_at: 0,
                started_once: true,
                image: None,
                cpu: lxc.cpuset,
                memory: None,
                disk: None,
                privileged: lxc.idmap.is_none(),
                mac: None,
                isolated_bridge: None,
                properties: Properties::new(),
            },
        }
    }
}

impl Virt {
    /// Returns the IPv4 address of `eth0`, not of bridges inside the pixel.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let state = self.raw.as_ref().and_then(|raw| raw.state.as_ref());
        let network = state.and_then(|state| state.network.as_ref());
        if let Some(eth0) = network.and_then(|network| network.get("eth0")) {
            return eth0
                .addresses
                .iter()
                .filter(|a| a.family == "inet" && a.scope == "global")
                .find_map(|a| a.address.parse().ok());
        }
        let mut all = self.aliases.iter().filter(|alias| alias.kind == "INET");
        match (all.next(), all.next()) {
            // Several addresses do not show which address belongs to `eth0`.
            (Some(only), None) => only.address.parse().ok(),
            _ => None,
        }
    }

    /// Returns the usage that Incus measured, or zeros if the query did not request it.
    pub fn usage(&self) -> Usage {
        let known = |value: i64| u64::try_from(value).unwrap_or(0);
        let Some(state) = self.raw.as_ref().and_then(|raw| raw.state.as_ref()) else {
            return Usage::default();
        };
        let interfaces = state.network.iter().flatten();
        let (mut received, mut sent) = (0_u64, 0_u64);
        for (_, interface) in interfaces.filter(|(name, _)| *name != "lo") {
            received = received.saturating_add(known(interface.counters.bytes_received));
            sent = sent.saturating_add(known(interface.counters.bytes_sent));
        }
        let root = state.disk.as_ref().and_then(|disks| disks.get("root"));
        Usage {
            cpu: Duration::from_nanos(known(state.cpu.usage)),
            memory: known(state.memory.usage),
            disk: root.map(|disk| known(disk.usage)),
            received,
            sent,
            processes: known(state.processes),
        }
    }

    fn into_instance(self, name: Name, status: Status) -> Instance {
        let config = |key: &str| self.raw.as_ref()?.config.get(key).cloned();
        let time = |of: fn(&Raw) -> &String| {
            let text = self.raw.as_ref().map(of)?;
            crate::model::parse_rfc3339(text)
        };
        let pending = PropertyKey::Bootstrap.get(&self.environment) == Some(properties::PENDING);
        let image = self.image.description.clone().or_else(|| {
            let os = self.image.os.clone()?;
            Some(match &self.image.release {
                Some(release) => format!("{os}/{release}"),
                None => os,
            })
        });
        let used = time(|raw| &raw.last_used_at).is_some_and(|time| time > 0);
        Instance {
            addresses: match status {
                Status::Running => self.address().into_iter().collect(),
                _ => Vec::new(),
            },
            created_at: time(|raw| &raw.created_at).unwrap_or(0),
            // No command runs in the pixel before the bootstrap has finished.
            started_once: !pending && (used || self.raw.is_none()),
            privileged: self.privileged_mode.unwrap_or(false)
                || config("security.privileged").as_deref() == Some("true"),
            mac: config("volatile.eth0.hwaddr"),
            isolated_bridge: None,
            properties: properties::read(&self.environment),
            memory: self.memory.map(|bytes| bytes.to_string()),
            disk: None,
            cpu: self.cpu,
            image,
            status,
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn virt(more: Value) -> Virt {
        let mut all = json!({"name": "px-a", "status": "RUNNING", "cpu": null, "memory": null,
            "aliases": [{"type": "INET", "address": "172.17.0.1", "netmask": 16},
                        {"type": "INET", "address": "192.0.2.7", "netmask": 24}]});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn address_is_that_of_eth0() {
        let raw = json!({"raw": {"state": {"network": {
            "docker0": {"addresses": [{"family": "inet", "address": "172.17.0.1", "scope": "global"}]},
            "eth0": {"addresses": [{"family": "inet6", "address": "fe80::1", "scope": "link"},
                                   {"family": "inet", "address": "192.0.2.7", "scope": "global"}]}}}}});
        assert_eq!(virt(raw).address(), Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(virt(json!({})).address(), None);
        let one = json!({"aliases": [{"type": "INET6", "address": "2001:db8::1"},
                                     {"type": "INET", "address": "192.0.2.9"}]});
        assert_eq!(virt(one).address(), Some(Ipv4Addr::new(192, 0, 2, 9)));
    }

    #[test]
    fn unknown_state_is_changing() {
        let instance = |more| Container::from(virt(more)).into_instance("a".parse().unwrap());
        for (state, status) in [
            ("RUNNING", Status::Running),
            ("STOPPED", Status::Stopped),
            ("ERROR", Status::Failed),
            ("THAWED", Status::Changing),
            ("SOMETHING", Status::Changing),
        ] {
            assert_eq!(instance(json!({"status": state})).status, status, "{state}");
        }
        assert!(instance(json!({"privileged_mode": true})).privileged);
        let pending = json!({"environment": {"pixels__contact": "pending"}});
        assert!(!instance(pending).started_once);
    }
}
