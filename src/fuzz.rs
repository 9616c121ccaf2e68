//! Fuzz tests of parsers that read bytes from servers, pixels, clients and
//! files.
//!
//! A target is a closure that must not panic, hang or allocate without bound
//! for any bytes. Targets also assert format rules, for example that a parsed
//! value is printed and parsed again to the same value. Targets are in
//! `fuzz.rs` beside the parser, because most parsers are private.
//!
//! `cargo test --lib fuzz` runs every stored input of `tests/fuzz/TARGET/` and
//! a fixed number of mutated inputs. `PIXELS_FUZZ_SECONDS=60` runs each target
//! for 60 seconds with a new seed, `PIXELS_FUZZ_SEED=7` with seed 7. A failing
//! input is shrunk and stored, and later runs check stored inputs first.

mod boundary;
mod config;

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use crate::model::fake::pixel;

/// Minimum size limit of inputs in bytes. Longer stored inputs raise the limit
/// to four times the length of the longest.
const MIN_LIMIT: usize = 1024;
/// Memory limit of the test process in bytes. Inputs have a few KiB.
const MEMORY_BYTES: u64 = 4 << 30;
const MAX_SHRINK_STEPS: usize = 2000;
/// Maximum number of generated inputs that are kept and mutated further.
const MAX_KEPT: usize = 2000;

/// Bytes with a special meaning in some format.
const BYTES: &[u8] = b"\0\n\r\t \x1b\"'\\/.:;,-+=<>{}[]()%$`#@*0\x7f\x80\xc3\xff";

/// Limits of number types, and malformed numbers.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "+1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999999",
    "1e999",
    "1.5",
    "0x10",
    "007",
    "NaN",
];

/// Text that parsers and terminals often handle incorrectly.
const PIECES: &[&str] = &[
    "\u{feff}",
    "\u{202e}",
    "\u{e4}",
    "\u{1f600}",
    "\u{9b}",
    "\x1b[2J",
    "\x1b]0;x\x07",
    "../",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "\r\n\r\n",
    "\n\n",
    "[[[[[[[[",
    "{\"\":",
    "xn--",
];

/// Replaces a few random ranges. Truncates the result to `limit` bytes.
fn mutate(input: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[&str], limit: usize, random: &mut Rng) {
    for _ in 0..=random.usize(..5) {
        let other = random.choice(inputs).unwrap();
        let mut at = range(input, random);
        let new = match random.u8(..10) {
            0 => Vec::new(),
            1 => vec![*random.choice(BYTES).unwrap()],
            2 => random.choice(PIECES).unwrap().as_bytes().to_vec(),
            3 | 4 => random.choice(words).unwrap_or(&"").as_bytes().to_vec(),
            5 => input[at.clone()].repeat(1 << random.u8(..9)),
            6 => {
                at = decimal(input, random).unwrap_or(at);
                random.choice(NUMBERS).unwrap().as_bytes().to_vec()
            }
            7 => {
                let bytes = integer(input.len(), random);
                at.end = input.len().min(at.start + bytes.len());
                bytes
            }
            8 => other[range(other, random)].to_vec(),
            _ => {
                at.end = input.len();
                other[random.usize(..=other.len())..].to_vec()
            }
        };
        input.splice(at, new);
        input.truncate(limit);
    }
}

/// A random range; short ranges are more likely than long ranges.
fn range(of: &[u8], random: &mut Rng) -> Range<usize> {
    let begin = random.usize(..=of.len());
    let most = (of.len() - begin).min(1 << random.u8(..8));
    begin..begin + random.usize(..=most)
}

/// A random range that contains a decimal number.
fn decimal(input: &[u8], random: &mut Rng) -> Option<Range<usize>> {
    let is_digit = |at: usize| input.get(at).is_some_and(u8::is_ascii_digit);
    let starts: Vec<usize> = (0..input.len())
        .filter(|at| is_digit(*at) && (*at == 0 || !is_digit(at - 1)))
        .collect();
    let begin = *random.choice(&starts)?;
    let end = (begin..=input.len()).find(|at| !is_digit(*at))?;
    Some(begin..end)
}

/// Random integer of 1, 2, 4 or 8 bytes in either byte order.
fn integer(length: usize, random: &mut Rng) -> Vec<u8> {
    let special = [0, u64::MAX, u64::MAX >> 1, length as u64];
    let value = match random.usize(..6) {
        4 => 1 << random.u8(..64),
        5 => random.u64(..),
        index => special[index],
    };
    let mut bytes = value.to_le_bytes()[..1 << random.u8(..4)].to_vec();
    if random.bool() {
        bytes.reverse();
    }
    bytes
}

/// Removes parts of the input while the input still fails.
fn shrink(mut input: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut steps, mut width) = (0, input.len() / 2);
    while width > 0 {
        let mut at = 0;
        while at + width <= input.len() && steps < MAX_SHRINK_STEPS {
            let shorter = [&input[..at], &input[at + width..]].concat();
            steps += 1;
            match fails(&shorter) {
                true => input = shorter,
                false => at += width,
            }
        }
        width /= 2;
    }
    input
}

/// Runs a target on its stored inputs and on `rounds` mutated inputs.
///
/// `words` are tokens of the format. `check` returns the kind of the input.
/// Fails if all inputs are of one kind, because such a target tests nothing.
#[track_caller]
pub fn fuzz<K: Hash>(target: &str, rounds: u32, words: &[&str], check: impl Fn(&[u8]) -> K) {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let time = number("PIXELS_FUZZ_SECONDS").map(Duration::from_secs);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("PIXELS_FUZZ_SEED");
    let seed = seed.unwrap_or_else(|| time.map_or(0, |_| now.as_nanos() as u64));
    if time.is_some() {
        // The test harness captures only print macros, and the seed must be
        // printed even if the process is killed.
        let _ = writeln!(std::io::stderr(), "fuzz {target}: PIXELS_FUZZ_SEED={seed}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let found = run(&folder.join(target), rounds, time, seed, words, check);
    assert!(found > 1, "fuzz {target}: all inputs have the same kind");
}

/// Returns the number of kinds. Panics with the path of the failing input.
#[track_caller]
fn run<K: Hash>(
    folder: &Path,
    rounds: u32,
    time: Option<Duration>,
    seed: u64,
    words: &[&str],
    check: impl Fn(&[u8]) -> K,
) -> usize {
    // An allocation beyond the limit aborts the process and does not exhaust
    // the machine's memory.
    let limit = Rlimit {
        current: Some(MEMORY_BYTES),
        maximum: getrlimit(Resource::Data).maximum,
    };
    setrlimit(Resource::Data, limit).unwrap();
    let kind = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| hash(check(input))));
    let mut inputs = Vec::new();
    let mut kinds = HashSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let input = fs::read(&file).unwrap();
        let kind = kind(&input).unwrap_or_else(|_| panic!("fails on {}", file.display()));
        kinds.insert(kind);
        inputs.push(input);
    }
    // The same seed must generate the same inputs in every directory order.
    inputs.sort();
    let stored = inputs.len();
    let longest = inputs.iter().map(Vec::len).max().expect("stored inputs");
    let limit = MIN_LIMIT.max(4 * longest);
    let mut random = Rng::with_seed(seed);
    let begin = Instant::now();
    let mut round = 0;
    while time.map_or(round < rounds, |time| begin.elapsed() < time) {
        round += 1;
        let mut input = inputs[random.usize(..inputs.len())].clone();
        mutate(&mut input, &inputs, words, limit, &mut random);
        match kind(&input) {
            Ok(kind) => {
                if kinds.insert(kind) && inputs.len() < stored + MAX_KEPT {
                    inputs.push(input);
                }
            }
            Err(_) => {
                let input = shrink(input, |shorter| kind(shorter).is_err());
                let file = folder.join(format!("found-{:016x}", hash(&input)));
                fs::write(&file, input).unwrap();
                panic!("fails on {}", file.display());
            }
        }
    }
    kinds.len()
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Returns the input as text, with replacement characters for invalid UTF-8.
pub fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Runs `work` on a paused clock, so that an endless wait fails.
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
    outcome.expect("the future never finishes")
}

#[test]
fn planted_fault_is_found_shrunk_and_stored() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("seed"), "name=a\tclients=1").unwrap();
    let search = |seed| {
        let check = |input: &[u8]| {
            let text = text(input);
            let number = text.split("clients=").nth(1).and_then(|n| n.parse().ok());
            assert!(!(text.contains("key=") && number == Some(u64::MAX)));
        };
        let run = || run(folder.path(), 50_000, None, seed, &["key="], check);
        let message = catch_unwind(run).expect_err("the search finds the fault");
        message.downcast_ref::<String>().unwrap().clone()
    };
    let message = search(1);
    let file = message.strip_prefix("fails on ").unwrap();
    let input = fs::read_to_string(file).unwrap();
    assert_eq!(input.len(), "key=clients=18446744073709551615".len());
    // Stored inputs run first.
    assert_eq!(search(2), message);
}

#[test]
fn stored_inputs_belong_to_a_target() {
    fn sources(folder: &Path) -> String {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| match entry.path() {
                path if path.is_dir() => sources(&path),
                path if path.to_string_lossy().contains("fuzz") => {
                    fs::read_to_string(path).unwrap()
                }
                _ => String::new(),
            })
            .collect()
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("src"));
    for entry in fs::read_dir(root.join("tests/fuzz")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(sources.contains(&format!("\"{name}\",")), "{name}");
    }
}
