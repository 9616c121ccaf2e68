//! Randomized repetition: number of rounds, and moments that a seed reproduces.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const ROUNDS: &str = "PIXELS_TEST_ROUNDS";
const SEED: &str = "PIXELS_TEST_SEED";

/// `PIXELS_TEST_ROUNDS`, or `usual` if it is not set.
pub fn rounds(usual: u32) -> u32 {
    asked(ROUNDS).map_or(usual, |n| u32::try_from(n).unwrap())
}

/// Whether `PIXELS_TEST_ROUNDS` is at least 100.
pub fn thorough() -> bool {
    asked(ROUNDS).is_some_and(|rounds| rounds >= 100)
}

/// The number in an environment variable. `None` if it is not set or empty.
pub fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

/// Random moments. A failing test prints the seed, and `PIXELS_TEST_SEED`
/// repeats them.
pub struct Moments {
    seed: u64,
    state: u64,
}

impl Moments {
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = asked(SEED).unwrap_or(u64::from(now.subsec_nanos()) ^ now.as_secs());
        Self { seed, state: seed }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A moment in part `part` of `span` cut into `parts` equal parts. One moment
    /// in each part meets every phase of a command in fewer rounds.
    pub fn in_part(&mut self, span: Duration, part: u32, parts: u32) -> Duration {
        let length = span / parts;
        length * part + self.within(length)
    }

    /// A moment in the first `span`.
    pub fn within(&mut self, span: Duration) -> Duration {
        span * u32::try_from(self.next() >> 44).unwrap() / (1 << 20)
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).unwrap()
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Drop for Moments {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{SEED}={} brings these moments back", self.seed);
        }
    }
}
