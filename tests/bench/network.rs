//! What the walls cost.

use std::time::Instant;

use anyhow::Result;

use crate::measure::{Contender, Who};
use crate::report::Outcome;
use crate::rows::Bench;

/// A clone behind the gateway, and one on the network of the host.
pub fn isolated(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let (name, instance) = (&lab.name("w"), &lab.instance("w"));
    let ready = &format!("{}:ready", lab.name("base"));
    let mut open = lab.program(&bench.binary.path);
    open.placement = Some("pixel");
    let programs = [
        (Who::Pixels, lab.program(&bench.binary.path)),
        (Who::Open, open),
    ];
    let contenders = programs.into_iter().map(|(who, program)| {
        Contender::new(who, move || {
            let begun = Instant::now();
            program.run(&["create", name, "--from", ready])?;
            program.run(&["exec", name, "--", "true"])?;
            let took = begun.elapsed();
            lab.api().remove(instance)?;
            Ok(took)
        })
    });
    bench.compare(contenders.collect())
}

/// Another policy for a running pixel, back and forth.
pub fn policy(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let base = &lab.name("base");
    let program = lab.program(&bench.binary.path);
    let mut number = 0;
    let set = Contender::new(Who::Pixels, move || {
        number += 1;
        let mode = if number % 2 == 0 {
            "unrestricted"
        } else {
            "agent"
        };
        program.run(&["network", "set", base, mode])
    });
    bench.compare_n(vec![set], bench.runs * 2)
}
