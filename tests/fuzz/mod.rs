//! Parsers of bytes that others send us, fed with bytes that nobody sent.
//!
//! A target is a function of bytes that must not panic, hang or take memory
//! without bound, and that asserts what else must hold, such as that what was
//! read is written and read back the same. Targets are tests of the library,
//! beside the parser they are about, because most parsers are private to it.
//!
//! `cargo test --lib fuzz` runs every stored input and a fixed number of
//! mutated ones. `PIXELS_FUZZ_SECONDS=60` runs every target for that long from
//! a new seed, `PIXELS_FUZZ_SEED=7` from this one. An input that fails is cut
//! down, stored in `tests/fuzz/corpus/TARGET/`, and run first from then on. One
//! that the process does not survive is left in the temporary folder, in a file
//! `fuzz-TARGET-PID`.

mod engine;
mod mutate;

mod boundary;
mod config;

use std::hash::Hash;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{Instance, Properties, Status};
use engine::{Budget, Engine};

/// The same inputs in every run, unless a seed or a time is given.
const SEED: u64 = 0x5eed;

/// Runs a target on its corpus and on `rounds` mutated inputs.
///
/// `words`: what the format is made of. `check` returns what kind of input it
/// was, and inputs of a new kind are mutated further.
#[track_caller]
pub fn fuzz<K: Hash>(target: &str, rounds: u64, words: &[&str], check: impl Fn(&[u8]) -> K) {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seconds = number("PIXELS_FUZZ_SECONDS");
    let seed = number("PIXELS_FUZZ_SEED")
        .unwrap_or_else(|| seconds.map_or(SEED, |_| clock().as_nanos() as u64));
    let budget = match seconds {
        Some(seconds) => Budget::Time(Duration::from_secs(seconds)),
        None => Budget::Rounds(rounds),
    };
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let engine = Engine::new(corpus.join(target), words, seed, budget);
    match engine.run(check) {
        Ok(figures) => engine::say(&format!("fuzz {target}: seed {seed}, {figures}")),
        Err(finding) => panic!("fuzz {target}: seed {seed}: {finding}"),
    }
}

/// The input as text: what is no UTF-8 is made some.
pub fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A pixel with these properties.
pub fn pixel(properties: Properties) -> Instance {
    Instance {
        name: "a".parse().unwrap(),
        status: Status::Running,
        addresses: Vec::new(),
        created_at: 0,
        started_once: true,
        image: None,
        cpu: None,
        memory: None,
        privileged: false,
        mac: None,
        isolated_bridge: None,
        properties,
    }
}

/// For code that waits: time passes at once where nothing else goes on, so a
/// wait without an end or a deadline is seen.
pub fn asynchronous<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        let day = Duration::from_secs(24 * 60 * 60);
        tokio::time::timeout(day, work).await
    });
    outcome.expect("it waits for what never comes")
}

#[test]
fn everything_stored_is_for_a_target() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let sources: String = std::fs::read_dir(&here)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for entry in std::fs::read_dir(here.join("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(sources.contains(&format!("\"{name}\",")), "{name}");
    }
}
