//! The addresses that resolvers have learned for the names of a policy.

use std::net::IpAddr;

use super::nftables::learned_set;
use super::policy::ResolvedPolicy;
use super::rule::Rule;
use crate::model::{ExecRequest, Guest, Result};

/// Prints the sets that contain an address.
/// usage: sh -c SCRIPT ADDRESS SET...
const SCRIPT: &str = r#"
for set; do
    ! /usr/sbin/nft get element inet pixels "$set" "{ $0 }" >/dev/null 2>&1 || echo "$set"
done
"#;
/// The set of the host's addresses in a gateway.
const HOST: &str = "host";

/// Returns a rule for a name that allows an address at this moment, because a DNS
/// answer for the name contained the address. `None` if no rule does, or if the
/// address is closed. `guest`: the gateway or pixel that enforces the policy.
pub async fn learned_rule(
    guest: &dyn Guest,
    policy: &ResolvedPolicy,
    address: IpAddr,
    port: Option<u16>,
) -> Result<Option<Rule>> {
    if policy.is_closed(address) {
        return Ok(None);
    }
    let allows_port = |rule: &&Rule| rule.allows_port(port);
    let rules: Vec<(String, &Rule)> = policy
        .rules
        .iter()
        .filter(allows_port)
        .filter_map(|rule| Some((learned_set(rule)?, rule)))
        .collect();
    if rules.is_empty() {
        return Ok(None);
    }
    let address = address.to_string();
    let sets = rules.iter().map(|(set, _)| set.as_str());
    let argv = ["/bin/sh", "-c", SCRIPT, &address, HOST].into_iter();
    let request = ExecRequest::root(argv.chain(sets));
    let output = guest.output(&request).await?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let has = |set: &str| printed.lines().any(|line| line == set);
    let rule = rules.iter().find(|(set, _)| has(set));
    Ok(rule.filter(|_| !has(HOST)).map(|(_, rule)| (*rule).clone()))
}
