//! Provisioning leases: what a pixel in the mode `allowlist` may reach in
//! addition while its provisioning steps run.
//!
//! A lease is an element with a timeout in the nftables set `provisioning` of
//! the gateway or pixel that enforces the policy. Rules for the additional
//! destinations match only while the element exists, so that the kernel ends a
//! lease without renewal. No file or record gives access without the element.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::policy::{Mode, Policy};
use crate::model::{ExecRequest, Guest, Result};

/// Time after which a lease ends unless it is renewed.
pub const LEASE: Duration = Duration::from_secs(60);
const NFT: &str = "/usr/sbin/nft";

impl Policy {
    /// The policy during a lease: the rules of the mode `agent` too. `None` in
    /// other modes, which have no leases.
    pub fn during_lease(&self) -> Option<Self> {
        (self.mode == Mode::Allowlist).then(|| self.in_mode(Mode::Agent))
    }
}

fn element(key: &str) -> String {
    format!("element inet pixels provisioning {{ {key} }}")
}

fn timed_element(key: &str) -> String {
    let seconds = LEASE.as_secs();
    format!("element inet pixels provisioning {{ {key} timeout {seconds}s }}")
}

/// nft commands that begin a lease or restart its time.
pub(super) fn begin(key: &str) -> String {
    let (element, timed) = (element(key), timed_element(key));
    format!("add {timed}\ndelete {element}\nadd {timed}\n")
}

/// Restarts the time of a lease, in one transaction. Returns false if the lease
/// has ended.
pub async fn renew(guest: &dyn Guest, key: &str) -> Result<bool> {
    let commands = format!("delete {}; add {}", element(key), timed_element(key));
    let output = guest.output(&ExecRequest::root([NFT, &commands])).await?;
    Ok(output.status.success())
}

/// Returns the leases and their remaining time. A gateway or pixel without a
/// loaded packet filter has no leases.
pub async fn leases(guest: &dyn Guest) -> Result<BTreeMap<String, Duration>> {
    let request = ExecRequest::root([NFT, "-j", "list", "set", "inet", "pixels", "provisioning"]);
    let output = guest.output(&request).await?;
    Ok(parse(&output.stdout).unwrap_or_default())
}

fn parse(json: &[u8]) -> Option<BTreeMap<String, Duration>> {
    let listing: Value = serde_json::from_slice(json).ok()?;
    let mut items = listing["nftables"].as_array()?.iter();
    let set = items.find_map(|item| item.get("set"))?;
    let elements = set["elem"].as_array().into_iter().flatten();
    let lease = |element: &Value| {
        let element = &element["elem"];
        let remaining = Duration::from_secs(element["expires"].as_u64()?);
        Some((element["val"].as_str()?.to_owned(), remaining))
    };
    Some(elements.filter_map(lease).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_parsed_from_nft_json() {
        // Recorded from nft 1.0.6.
        let listing = br#"{"nftables": [{"metainfo": {"version": "1.0.6",
            "release_name": "Lester Gooch #5", "json_schema_version": 1}},
            {"set": {"family": "inet", "name": "provisioning", "table": "pixels",
            "type": "ipv4_addr", "handle": 1, "flags": ["timeout"],
            "elem": [{"elem": {"val": "10.98.0.5", "timeout": 60, "expires": 58}}]}}]}"#;
        let expected = ("10.98.0.5".to_owned(), Duration::from_secs(58));
        assert_eq!(parse(listing), Some([expected].into()));
        let empty = br#"{"nftables": [{"set": {"name": "provisioning"}}]}"#;
        assert_eq!(parse(empty), Some(BTreeMap::new()));
        assert_eq!(parse(b"Error: No such file or directory"), None);
    }

    #[test]
    fn only_allowlists_have_leases() {
        let allow = || ["a.example".parse().unwrap()];
        let policy = Policy::new(Mode::Allowlist, allow()).during_lease();
        assert_eq!(policy, Some(Policy::new(Mode::Agent, allow())));
        for mode in [Mode::Agent, Mode::Unrestricted] {
            assert_eq!(Policy::new(mode, []).during_lease(), None);
        }
    }
}
