//! Attempts to keep what an earlier policy allowed: after provisioning, and over
//! sockets that are older than a policy change.

use super::attempt::{Attempt, judge};
use super::lab::Lab;
use super::pixels::{LEASE_ONLY, TestPixels, restricted_policy};
use super::row::Sender;
use crate::lifecycle::Lease;
use crate::model::Result;

const LEASE: &str = "a name that only provisioning may resolve";
/// Names and lines.
const FLOWS: [(&str, &str); 3] = [
    (
        "a UDP socket older than the policy",
        "flow udp {denied} 4433",
    ),
    ("a DNS socket older than the policy", "flow dns {server} 53"),
    (
        "a DNS connection older than the policy",
        "flow dns-tcp {server} 53",
    ),
];
pub const NAMES: [&str; 4] = [LEASE, FLOWS[0].0, FLOWS[1].0, FLOWS[2].0];

/// Queries a name that a provisioning lease allows, before and after the end of a
/// lease. `observer` is the position of the observer of the restricted pixel's
/// queries.
pub async fn lease(pixels: &TestPixels<'_>, lab: &mut Lab, observer: usize) -> Result<Attempt> {
    let gateway = &pixels.defaults.gateway;
    let begun = Lease::begin(pixels.backend, pixels.cancel, gateway, &pixels.restricted).await;
    let lease = begun.map_err(|error| error.source)?;
    let before = query_leaves(lab, observer).await?;
    if let Some(lease) = lease {
        lease.end().await;
    }
    let after = query_leaves(lab, observer).await?;
    let way = format!("{LEASE_ONLY} is still resolved");
    let unproven = "fails during provisioning too";
    Ok(judge_change(LEASE, before, after, &way, unproven))
}

/// Whether a query of the restricted pixel is answered or leaves.
async fn query_leaves(lab: &mut Lab, observer: usize) -> Result<bool> {
    let token = lab.token();
    let line = format!("dns {{server}} {LEASE_ONLY} {}", token.record_type());
    let reply = lab.send(Sender::Restricted, token, &line).await?;
    lab.witnesses_work().await?;
    Ok(reply.is_some() || lab.observers[observer].witness.saw(token))
}

/// Opens sockets in the unrestricted pixel, restricts its policy, and uses the
/// sockets again. `observer` is the position of the observer of the pixel's
/// packets.
pub async fn flows(
    pixels: &TestPixels<'_>,
    lab: &mut Lab,
    observer: usize,
) -> Result<Vec<Attempt>> {
    let before = send_flows(lab, observer).await?;
    let policy = restricted_policy();
    pixels.set_policy(&pixels.open, &policy).await?;
    let after = send_flows(lab, observer).await?;
    let flows = FLOWS.iter().zip(before).zip(after);
    let attempts = flows.map(|(((name, _), before), after)| {
        let way = "still open after the policy change";
        let unproven = "fails before the policy change too";
        judge_change(name, before, after, way, unproven)
    });
    Ok(attempts.collect())
}

/// Returns for each flow whether its packet left.
async fn send_flows(lab: &mut Lab, observer: usize) -> Result<Vec<bool>> {
    let mut tokens = Vec::new();
    for (_, line) in FLOWS {
        let token = lab.token();
        lab.send(Sender::Open, token, line).await?;
        tokens.push(token);
    }
    lab.witnesses_work().await?;
    let witness = &mut lab.observers[observer].witness;
    Ok(tokens.into_iter().map(|token| witness.saw(token)).collect())
}

/// Judges an attempt by whether it succeeded before and after a policy change.
fn judge_change(name: &str, before: bool, after: bool, way: &str, unproven: &str) -> Attempt {
    let way = after.then(|| way.to_owned());
    judge(name, way.as_slice(), (!before).then_some(unproven))
}
