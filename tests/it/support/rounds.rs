//! Randomized repetition: number of rounds, and moments that a seed reproduces.

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

/// Random moments. A failing test prints the seed, and `PIXELS_TEST_SEED`
/// repeats them.
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

    /// A moment in part `part` of `span` cut into `parts` equal parts. One moment
    /// in each part meets every phase of a command in fewer rounds.
    pub fn in_part(&mut self, span: Duration, part: u32, parts: u32) -> Duration {
        let length = span / parts;
        length * part + self.within(length)
    }

    /// A moment in the first `span`.
    pub fn within(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.random.f64())
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        self.random.usize(..count)
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{SEED}={} brings these moments back", self.seed);
        }
    }
}
