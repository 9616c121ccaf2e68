//! The decision: what has to be done to a host of which these facts hold.
//! Pure; the same facts give the same plan, so a dry run shows what is done.

mod image;
mod local;
mod server;
mod step;
#[cfg(test)]
mod tests;

use super::Options;
use super::facts::{HostFacts, ServerState};
use super::packages::{self, Purpose};

pub use image::{ImageState, Recipe, image_state};
pub(super) use image::{asks_image_server, can_stand_in};
pub use server::BRIDGE_NAME;
pub use step::{Action, Plan, Step, StepId};

/// What is left to do, in order.
pub fn plan(facts: &HostFacts, options: &Options) -> Plan {
    let mut plan = Plan::default();
    if let ServerState::Denied(reason) = &facts.server {
        server::denied(&mut plan, facts, reason);
        return plan;
    }
    let server = facts.server.facts();
    let pool = server::needs_pool(server, options);
    let network = server::needs_network(server, options);
    let image = image::image_state(facts, options);
    let build = image == ImageState::Missing && image::can_stand_in(facts, options);

    if let Some(local) = &facts.local {
        let missing = packages::missing(
            &local.packages,
            Purpose {
                daemon: server.is_none() && local.daemon_pid.is_none(),
                client: options.with_client,
                pool: pool && local.btrfs,
                bridge: network,
                image: build && image::recipe(local).is_ok(),
            },
        );
        local::packages(&mut plan, local, &missing);
        local::subids(&mut plan, local, server.is_some());
        local::inotify(&mut plan, local);
    }
    match (&facts.server, &facts.local) {
        (ServerState::Silent(reason), None) => {
            server::unreachable(&mut plan, reason);
            return plan;
        }
        (ServerState::Silent(reason), Some(local)) => local::daemon(&mut plan, local, reason),
        _ => {}
    }
    if pool {
        server::pool(&mut plan, facts, options);
    }
    if network {
        server::network(&mut plan, facts, options);
    }
    image::image(&mut plan, facts, options, &image);
    require_root(&mut plan, facts);
    plan
}

/// Says first of all when a step needs powers that are not there.
fn require_root(plan: &mut Plan, facts: &HostFacts) {
    let root = facts.local.as_ref().is_some_and(|local| local.root);
    let needed = plan.steps.iter().find(|step| step.action.needs_root());
    let Some(first) = needed.filter(|_| !root) else {
        return;
    };
    let step = Step {
        id: StepId::Privilege,
        title: "become root".into(),
        reason: format!("needed to {}", first.title),
        action: Action::Blocked {
            missing: "this needs root".into(),
            fix: "sudo pixels setup".into(),
        },
    };
    // What the user may do alone is done before.
    let at = plan
        .steps
        .iter()
        .position(|step| step.action.needs_root())
        .unwrap_or(0);
    plan.steps.insert(at, step);
}
