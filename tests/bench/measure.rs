//! Runs programs in turns and collects their times.

use std::time::Duration;

use anyhow::Result;

use crate::go_on;

/// The program or API that a column measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Pixels,
    /// Another pixels binary, named with `--earlier`.
    Earlier,
    /// The pixels binary, without a gateway.
    Open,
    /// The pixels binary, with few pixels behind the gateway.
    Few,
    /// The pixels binary, while no pixel floods the gateway.
    Quiet,
    Incus,
    Api,
}

/// One contender of a row. Each call of `run` is one timed run.
pub struct Contender<'a> {
    pub who: Who,
    run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Contender<'a> {
    pub fn new(who: Who, run: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self {
            who,
            run: Box::new(run),
        }
    }
}

/// The times of one contender.
#[derive(Debug, Clone)]
pub struct Times {
    pub who: Who,
    /// Times in ascending order, never empty.
    pub sorted: Vec<Duration>,
}

impl Times {
    pub fn median(&self) -> Duration {
        let middle = self.sorted.len() / 2;
        if self.sorted.len().is_multiple_of(2) {
            (self.sorted[middle - 1] + self.sorted[middle]) / 2
        } else {
            self.sorted[middle]
        }
    }
}

/// Warms up, then runs `runs` rounds. The order rotates with each round.
pub fn take_turns(mut contenders: Vec<Contender<'_>>, runs: usize) -> Result<Vec<Times>> {
    for contender in &mut contenders {
        go_on()?;
        (contender.run)()?;
    }
    let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(runs); contenders.len()];
    let count = contenders.len();
    for round in 0..runs {
        for turn in 0..count {
            go_on()?;
            let index = (round + turn) % count;
            times[index].push((contenders[index].run)()?);
        }
    }
    Ok(contenders
        .iter()
        .zip(times)
        .map(|(contender, mut sorted)| {
            sorted.sort_unstable();
            Times {
                who: contender.who,
                sorted,
            }
        })
        .collect())
}
