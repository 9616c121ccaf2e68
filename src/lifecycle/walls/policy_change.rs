//! Attempts to keep what an earlier policy allowed: after provisioning, and over
//! sockets that are older than a policy change.

use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::lab::{Lab, Sender, judge};
use super::{Attempt, LEASE_ONLY, Stage, restricted_policy};
use crate::lifecycle::Lease;
use crate::model::Result;

const LEASE: &str = "a name that only provisioning may resolve";
/// Names and lines. `SERVER` is the DNS server of the pixel.
const FLOWS: [(&str, &str); 3] = [
    (
        "a UDP socket older than the policy",
        "flow udp {denied} 4433",
    ),
    ("a DNS socket older than the policy", "flow dns SERVER 53"),
    (
        "a DNS connection older than the policy",
        "flow dns-tcp SERVER 53",
    ),
];
pub const NAMES: [&str; 4] = [LEASE, FLOWS[0].0, FLOWS[1].0, FLOWS[2].0];

/// Queries a name that a provisioning lease allows, before and after the end of a
/// lease. `at` is the observer of the restricted pixel's queries.
pub async fn lease(
    stage: &Stage<'_>,
    lab: &mut Lab,
    at: usize,
    server: &str,
    facts: &Facts,
    cancel: &CancellationToken,
) -> Result<Attempt> {
    let gateway = &stage.defaults.gateway;
    let begun = Lease::begin(stage.backend, cancel, gateway, &stage.restricted).await;
    let mut lease = begun.map_err(|error| error.source)?;
    let mut left = [false; 2];
    for left in &mut left {
        let token = lab.token();
        let line = format!("dns {server} {LEASE_ONLY} {}", token.record_type());
        let line = facts.fill_one(Sender::Restricted, &line)?;
        let reply = lab.send(Sender::Restricted, token, line).await?;
        lab.witnesses_work().await?;
        *left = reply.is_some() || lab.observers[at].witness.saw(token);
        if let Some(lease) = lease.take() {
            lease.end().await;
        }
    }
    let [before, after] = left;
    let ways = match after {
        true => vec![format!("{LEASE_ONLY} is still resolved")],
        false => Vec::new(),
    };
    let proven = match before {
        true => Ok(()),
        false => Err("fails during provisioning too"),
    };
    Ok(judge(LEASE, &ways, proven))
}

/// Opens sockets in the unrestricted pixel, restricts its policy, and uses the
/// sockets again. `at` is the observer of the pixel's packets.
pub async fn flows(
    stage: &Stage<'_>,
    lab: &mut Lab,
    at: usize,
    server: &str,
    facts: &Facts,
    cancel: &CancellationToken,
) -> Result<Vec<Attempt>> {
    let before = send_flows(lab, at, server, facts).await?;
    stage
        .set_policy(&stage.open, &restricted_policy(), cancel)
        .await?;
    let after = send_flows(lab, at, server, facts).await?;
    let flows = FLOWS.iter().zip(before).zip(after);
    let attempts = flows.map(|(((name, _), before), after)| {
        let ways = match after {
            true => vec!["still open after the policy change".to_owned()],
            false => Vec::new(),
        };
        let proven = match before {
            true => Ok(()),
            false => Err("fails before the policy change too"),
        };
        judge(name, &ways, proven)
    });
    Ok(attempts.collect())
}

/// Returns for each flow whether its packet left.
async fn send_flows(lab: &mut Lab, at: usize, server: &str, facts: &Facts) -> Result<Vec<bool>> {
    let mut tokens = Vec::new();
    for (_, line) in FLOWS {
        let line = facts.fill_one(Sender::Open, &line.replace("SERVER", server))?;
        let token = lab.token();
        lab.send(Sender::Open, token, line).await?;
        tokens.push(token);
    }
    lab.witnesses_work().await?;
    let witness = &mut lab.observers[at].witness;
    Ok(tokens.into_iter().map(|token| witness.saw(token)).collect())
}
