//! Derives the missing setup steps from the facts about a host.
//!
//! Pure: equal facts result in equal plans, so a dry run shows exactly the
//! steps that setup runs.

mod image;
mod local;
mod recipe;
mod server;
mod step;
#[cfg(test)]
pub(super) mod tests;

use super::Options;
use super::facts::{HostFacts, ServerState};
use super::packages::{self, Purpose};

pub use image::{ImageState, image_state};
pub(super) use image::{can_build_fallback, needs_image_server};
pub use recipe::Recipe;
pub use server::BRIDGE_NAME;
pub use step::{Action, Plan, Step, StepId};

/// Returns the missing steps, in order.
pub fn plan(facts: &HostFacts, options: &Options) -> Plan {
    let mut plan = Plan::default();
    if let ServerState::Denied(reason) = &facts.server {
        server::add_access_denied(&mut plan, facts, reason);
        return plan;
    }
    let server = facts.server.facts();
    let needs_pool = server::needs_pool(server, options);
    let needs_network = server::needs_network(server, options);
    let image = image::image_state(facts, options);
    let builds_image = image == ImageState::Missing && image::can_build_fallback(facts, options);

    if let Some(local) = &facts.local {
        let purposes: Vec<Purpose> = [
            (
                Purpose::Daemon,
                server.is_none() && local.daemon_pid.is_none(),
            ),
            (Purpose::Client, options.with_client),
            (Purpose::Pool, needs_pool && local.btrfs),
            (Purpose::Bridge, needs_network),
            (
                Purpose::Image,
                builds_image && recipe::recipe(local).is_ok(),
            ),
        ]
        .into_iter()
        .filter_map(|(purpose, needed)| needed.then_some(purpose))
        .collect();
        let missing = packages::missing(&local.packages, &purposes);
        local::add_packages(&mut plan, local, &missing);
        local::add_subids(&mut plan, local, server.is_some());
        local::add_kernel_limits(&mut plan, local);
    }
    match (&facts.server, &facts.local) {
        (ServerState::Unreachable(reason), None) => {
            server::add_unreachable(&mut plan, reason);
            return plan;
        }
        (ServerState::Unreachable(reason), Some(local)) => {
            local::add_daemon(&mut plan, local, reason);
        }
        _ => {}
    }
    if needs_pool {
        server::add_pool(&mut plan, facts, options);
    }
    if needs_network {
        server::add_network(&mut plan, facts, options);
    }
    image::add_image(&mut plan, facts, options, &image);
    require_root(&mut plan, facts);
    plan
}

/// Without root, inserts a blocked step before the first step that needs root.
/// Earlier steps, which the user may run, stay in the plan.
fn require_root(plan: &mut Plan, facts: &HostFacts) {
    if facts.local.as_ref().is_some_and(|local| local.root) {
        return;
    }
    let Some(index) = plan.steps.iter().position(|step| step.action.needs_root()) else {
        return;
    };
    let step = Step::new(
        StepId::Privilege,
        "get root privileges",
        format!("needed to {}", plan.steps[index].title),
        Action::blocked("not running as root", "sudo pixels setup"),
    );
    plan.steps.insert(index, step);
}
