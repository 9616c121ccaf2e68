//! Check of the filter on the host that belongs to a gateway.

use std::path::Path;

use super::{Check, Status, Verdict, checks, ok, problem, skipped, warning};
use crate::backend::incus::Endpoint;
use crate::host::Options;
use crate::host::command::{CommandLine, run};
use crate::model::HostFilter;

const NAMES: &[(&str, &str)] = &[("host-filter", "host behind the egress gateway")];
const REBUILD: &str = "pixels network gateway rebuild";

/// Checks that the host filters the port of a running gateway. `filter`: the
/// configured filter, `None` if the gateway has none.
pub async fn check_host_filter(options: &Options, filter: Option<&HostFilter>) -> Vec<Check> {
    let verdict = match (filter, &options.endpoint) {
        (None, _) => warning(
            "the gateway does not filter on the host: pixels may reach addresses of the host that \
             the gateway does not know, and neighbors of the gateway may connect to pixels",
            REBUILD,
        ),
        (Some(_), Endpoint::Https(_)) => ok("the gateway's start configures the host's filter"),
        (Some(filter), Endpoint::Unix(_)) => check_tables(filter).await,
    };
    checks(NAMES, [verdict])
}

async fn check_tables(filter: &HostFilter) -> Verdict {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can read the host's packet filter");
    }
    if !Path::new("/sys/class/net").join(&filter.port).exists() {
        let detail = "the gateway's uplink is not a bridge of this host: the gateway itself denies \
                      the host's addresses that it knows";
        return (Status::Warning, detail.into(), None);
    }
    for family in ["netdev", "bridge", "inet", "arp"] {
        let list = CommandLine::new("nft", ["list", "table", family, &filter.table]);
        let mut lines = Vec::new();
        let outcome = run(&list, &mut |line| lines.push(line.to_owned())).await;
        let is_loaded = outcome.is_ok_and(|outcome| outcome.status.success())
            && (matches!(family, "inet" | "arp")
                || lines.iter().any(|line| line.contains(&filter.port)));
        if !is_loaded {
            return problem(
                format!(
                    "table {family} {} is missing: pixels may reach the host, or neighbors of the \
                     gateway may connect to pixels",
                    filter.table
                ),
                format!("restart the gateway: {REBUILD}"),
            );
        }
    }
    ok(format!("filters the gateway's port {}", filter.port))
}
