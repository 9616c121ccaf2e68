//! Benchmarks of the gateway and of egress policies.

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
    let base = &lab.name("base");
    let program = lab.program(&bench.binary.path);
    let mut modes = ["agent", "unrestricted"].into_iter().cycle();
    let set = Contender::new(Who::Pixels, move || {
        let mode = modes.next().unwrap_or_default();
        program.run(&["network", "set", base, mode])
    });
    bench.compare_n(vec![set], bench.runs * 2)
}
