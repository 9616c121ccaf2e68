//! Benchmarks of the gateway and of egress policies.

use std::time::Duration;

use anyhow::Result;

use crate::lab::Lab;
use crate::measure::{Contender, Who};
use crate::report::Outcome;
use crate::rows::{Bench, timed_create};

/// Clones the base pixel behind the gateway and without a gateway.
pub fn isolated(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let contenders = [(Who::Pixels, None), (Who::Open, Some("pixel"))].map(|(who, placement)| {
        let mut program = lab.program(&bench.binary.path);
        program.placement = placement;
        Contender::new(who, move || timed_create(lab, &program))
    });
    bench.compare(contenders.into())
}

/// Changes the egress policy of a running pixel, back and forth.
pub fn policy(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let set = Contender::new(Who::Pixels, set_policy(bench, lab));
    bench.compare(vec![set])
}

/// Changes the policy of the lab's base pixel, back and forth. Returns the mean time
/// of a change: the two directions take different times. No other pixel has these
/// policies, so that the gateway starts and stops their resolvers.
pub fn set_policy<'a>(bench: &Bench<'_>, lab: &'a Lab) -> impl FnMut() -> Result<Duration> + 'a {
    let program = lab.program(&bench.binary.path);
    let base = lab.name("base");
    move || {
        let set = |policy: &[&str]| program.run(&[&["network", "set", &base], policy].concat());
        Ok((set(&["agent", "--allow", "own.example"])? + set(&["unrestricted"])?) / 2)
    }
}
