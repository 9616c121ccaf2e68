//! What the server says of an instance, in the boundary's terms.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::properties::{self, PropertyKey};
use super::wire::{Lxc, Virt};
use crate::model::{Instance, Name, Properties, Status, Usage};

/// One instance as either API has it.
#[derive(Debug)]
pub(super) enum Found {
    Virt(Box<Virt>),
    Lxc(Lxc),
}

impl Found {
    pub fn name(&self) -> &str {
        match self {
            Self::Virt(virt) => &virt.name,
            Self::Lxc(lxc) => &lxc.name,
        }
    }

    pub fn status(&self) -> Status {
        let word = match self {
            Self::Virt(virt) => &virt.status,
            Self::Lxc(lxc) => &lxc.status.state,
        };
        match word.as_str() {
            "RUNNING" => Status::Running,
            "STOPPED" => Status::Stopped,
            "ERROR" => Status::Failed,
            // Words of later releases too: the server is to be asked again.
            _ => Status::Changing,
        }
    }

    pub fn describe(self, name: Name) -> Instance {
        let status = self.status();
        match self {
            Self::Virt(virt) => virt.describe(name, status),
            Self::Lxc(lxc) => Instance {
                name,
                status,
                addresses: Vec::new(),
                created_at: 0,
                started_once: true,
                image: None,
                cpu: lxc.cpuset,
                memory: None,
                privileged: lxc.idmap.is_none(),
                mac: None,
                isolated_bridge: None,
                properties: Properties::new(),
            },
        }
    }
}

impl Virt {
    /// The address of the interface of ours; a bridge made inside has one too.
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
            // Of several nobody could tell which is meant.
            (Some(only), None) => only.address.parse().ok(),
            _ => None,
        }
    }

    /// What Incus measures; nothing where it was not asked.
    pub fn usage(&self) -> Usage {
        let amount = |of: i64| u64::try_from(of).unwrap_or(0);
        let Some(state) = self.raw.as_ref().and_then(|raw| raw.state.as_ref()) else {
            return Usage::default();
        };
        let interfaces = state.network.iter().flatten();
        let others = interfaces.filter(|(name, _)| *name != "lo");
        let (received, sent) = others.fold((0_u64, 0_u64), |(received, sent), (_, one)| {
            let (more, out) = (one.counters.bytes_received, one.counters.bytes_sent);
            (
                received.saturating_add(amount(more)),
                sent.saturating_add(amount(out)),
            )
        });
        let root = state.disk.as_ref().and_then(|disks| disks.get("root"));
        Usage {
            cpu: Duration::from_nanos(amount(state.cpu.usage)),
            memory: amount(state.memory.usage),
            disk: root.map(|disk| amount(disk.usage)),
            received,
            sent,
            processes: amount(state.processes),
        }
    }

    fn describe(self, name: Name, status: Status) -> Instance {
        let config = |key: &str| self.raw.as_ref()?.config.get(key).cloned();
        let stamp = |text: Option<&String>| text.map_or(0, |text| timestamp(text));
        let pending =
            PropertyKey::Contact.read_properties(&self.environment) == Some(properties::PENDING);
        let image = self.image.description.clone().or_else(|| {
            let os = self.image.os.clone()?;
            Some(match &self.image.release {
                Some(release) => format!("{os}/{release}"),
                None => os,
            })
        });
        let used = stamp(self.raw.as_ref().map(|raw| &raw.last_used_at)) > 0;
        Instance {
            addresses: match status {
                Status::Running => self.address().into_iter().collect(),
                _ => Vec::new(),
            },
            created_at: stamp(self.raw.as_ref().map(|raw| &raw.created_at)),
            // Before there is a way in, nobody has worked in it.
            started_once: !pending && (used || self.raw.is_none()),
            privileged: self.privileged_mode.unwrap_or(false)
                || config("security.privileged").as_deref() == Some("true"),
            mac: config("volatile.eth0.hwaddr"),
            isolated_bridge: None,
            properties: properties::read(&self.environment),
            memory: self.memory.map(|bytes| bytes.to_string()),
            cpu: self.cpu,
            image,
            status,
            name,
        }
    }
}

fn timestamp(text: &str) -> i64 {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_or(0, time::OffsetDateTime::unix_timestamp)
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
    fn a_bridge_inside_is_not_taken_for_the_address() {
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
    fn unknown_states_are_passing_ones() {
        let name: Name = "a".parse().unwrap();
        for (word, status) in [
            ("RUNNING", Status::Running),
            ("STOPPED", Status::Stopped),
            ("ERROR", Status::Failed),
            ("THAWED", Status::Changing),
            ("SOMETHING", Status::Changing),
        ] {
            let found = Found::Virt(Box::new(virt(json!({"status": word}))));
            assert_eq!(found.describe(name.clone()).status, status, "{word}");
        }
        let privileged = Found::Virt(Box::new(virt(json!({"privileged_mode": true}))));
        assert!(privileged.describe(name.clone()).privileged);
        let pending = virt(json!({"environment": {"pixels__contact": "pending"}}));
        assert!(!Found::Virt(Box::new(pending)).describe(name).started_once);
    }
}
