//! Number of test rounds, and random delays that a seed reproduces.

use std::time::Duration;

const ROUNDS: &str = "PIXELS_TEST_ROUNDS";
const SEED: &str = "PIXELS_TEST_SEED";

/// `PIXELS_TEST_ROUNDS`, or `usual` if it is not set.
pub fn rounds(usual: u32) -> u32 {
    env_number(ROUNDS).map_or(usual, |n| u32::try_from(n).unwrap())
}

/// Whether `PIXELS_TEST_ROUNDS` is at least 100.
pub fn thorough() -> bool {
    env_number(ROUNDS).is_some_and(|rounds| rounds >= 100)
}

/// The number in an environment variable. `None` if it is not set or empty.
pub fn env_number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

/// Random delays. A failing test prints the seed. `PIXELS_TEST_SEED` reproduces
/// the delays.
pub struct Moments {
    pub seed: u64,
    random: fastrand::Rng,
}

impl Moments {
    pub fn new() -> Self {
        let seed = env_number(SEED).unwrap_or_else(|| fastrand::u64(..));
        let random = fastrand::Rng::with_seed(seed);
        Self { seed, random }
    }

    /// A random delay in part number `part` of `span`, divided into `parts`
    /// equal parts. One delay per part covers a command with fewer rounds.
    pub fn in_part(&mut self, span: Duration, part: u32, parts: u32) -> Duration {
        let length = span / parts;
        length * part + self.within(length)
    }

    /// A random delay shorter than `span`.
    pub fn within(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.random.f64())
    }

    /// A random number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        self.random.usize(..count)
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("set {SEED}={} to reproduce this run", self.seed);
        }
    }
}
