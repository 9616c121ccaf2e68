//! Hooks of a gateway's container that filter its port on the server's host.
//!
//! Only the host knows all of its addresses at any time, and whether it sends a
//! packet itself or forwards it for a neighbor. The hooks need the programs `ip`,
//! `nft` and `nsenter` on the server.

use reqwest::Method;
use serde_json::json;

use super::client::Client;
use super::error::Failure;
use super::init_script::{KEY, one_line};
use super::operation::retry_while_busy;
use super::{instances, wire};
use crate::model::{HOST_ACCESS_DSCP, HostFilter, Name, Result, Subject};

pub(super) const SCRIPT: &str = include_str!("host/host-filter.sh");
/// The shell's name for the script, which distinguishes the hooks from others.
const SHELL_NAME: &str = "' pixels-host-filter ";
/// The key of the name of the gateway's port, set while the gateway runs.
const PORT: &str = "volatile.eth0.host_name";

/// Returns the lines of the hooks for [`KEY`]: the first adds the tables at each
/// start, the second deletes them. LXC skips the second if the daemon is dead; the
/// tables then match no packets until the next start replaces them.
pub(super) fn hooks(subnet: &str) -> [String; 2] {
    let (script, table) = (one_line(SCRIPT), table(subnet));
    let remove = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin; \
                  for family in netdev bridge inet arp; do nft delete table $family $1; done \
                  2>/dev/null; exit 0";
    [
        format!(
            "lxc.hook.start-host = /bin/sh -c '{script}{SHELL_NAME}{table} {subnet} \
             {HOST_ACCESS_DSCP}"
        ),
        format!("lxc.hook.post-stop = /bin/sh -c '{remove}{SHELL_NAME}{table}"),
    ]
}

/// A host has at most one route to a subnet, and therefore one gateway.
fn table(subnet: &str) -> String {
    format!("pixels_{}", subnet.replace(['.', '/'], "_"))
}

/// Adds the hooks to a gateway of an earlier version. Returns whether the
/// configuration has changed.
pub(super) async fn add(client: &Client, gateway: &Name, subnet: &str) -> Result<bool> {
    let into_error = |failure: Failure| failure.into_error_for(Subject::pixel(gateway));
    let path = instances::path(gateway);
    let found: wire::Instance = client.get(&path).await.map_err(into_error)?;
    if is_configured(&found, subnet) {
        return Ok(false);
    }
    let current = found.config.get(KEY).map(String::as_str);
    let others = current.unwrap_or_default().lines();
    let mut lines: Vec<String> = others
        .filter(|line| !line.contains(SHELL_NAME))
        .map(str::to_owned)
        .collect();
    lines.extend(hooks(subnet));
    let body = json!({"config": {(KEY): lines.join("\n")}});
    let outcome = retry_while_busy(|| client.send(Method::PATCH, &path, &body)).await;
    outcome.map(|()| true).map_err(into_error)
}

pub(super) async fn find(
    client: &Client,
    gateway: &Name,
    subnet: &str,
) -> Result<Option<HostFilter>> {
    let found: Result<wire::Instance, Failure> = client.get(&instances::path(gateway)).await;
    let found = found.map_err(|failure| failure.into_error_for(Subject::pixel(gateway)))?;
    let port = found.config.get(PORT).cloned();
    Ok(port
        .filter(|_| is_configured(&found, subnet))
        .map(|port| HostFilter {
            table: table(subnet),
            port,
        }))
}

fn is_configured(instance: &wire::Instance, subnet: &str) -> bool {
    let lines: Vec<&str> = instance
        .config
        .get(KEY)
        .into_iter()
        .flat_map(|text| text.lines())
        .collect();
    hooks(subnet)
        .iter()
        .all(|hook| lines.contains(&hook.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_is_one_quoted_line() {
        for hook in hooks("10.98.0.0/16") {
            assert!(!hook.contains('\n'), "{hook}");
            assert_eq!(hook.matches('\'').count(), 2, "{hook}");
            assert!(hook.contains("pixels_10_98_0_0_16"), "{hook}");
        }
    }
}
