//! Runs a target on input after input, and keeps what makes it fail.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::mutate::{Random, mutate};

/// Inputs of a new kind that are kept for further mutation.
const POOL: usize = 2000;
/// Inputs are no longer than four times the longest stored one, and may
/// always have this many bytes.
const SHORT: usize = 1024;
/// What takes this long on one input does not end.
const HANG: Duration = Duration::from_secs(30);
/// For everything in the process that holds data: an input of a few KiB has
/// no business near it.
const MEMORY: u64 = 4 << 30;
/// Attempts to make a failing input shorter.
const CUTS: usize = 2000;

pub enum Budget {
    Rounds(u64),
    Time(Duration),
}

pub struct Engine {
    /// Where inputs are stored.
    corpus: PathBuf,
    words: Vec<Vec<u8>>,
    seed: u64,
    budget: Budget,
}

pub struct Figures {
    stored: usize,
    executions: u64,
    kinds: usize,
    time: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stored,
            executions,
            kinds,
            time,
        } = self;
        let seconds = time.as_secs_f64();
        write!(
            f,
            "{executions} executions in {seconds:.1} s, {stored} stored inputs, {kinds} kinds"
        )
    }
}

/// Where the input is that made a target fail, and how.
#[derive(Debug)]
pub struct Finding {
    pub file: PathBuf,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (input: {})", self.message, self.file.display())
    }
}

impl Engine {
    pub fn new(corpus: PathBuf, words: &[&str], seed: u64, budget: Budget) -> Self {
        Self {
            corpus,
            words: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
            seed,
            budget,
        }
    }

    pub fn run<K: Hash>(&self, check: impl Fn(&[u8]) -> K) -> Result<Figures, Box<Finding>> {
        static LIMITED: Once = Once::new();
        LIMITED.call_once(limit_memory);
        let attempt = |input: &[u8]| -> Result<u64, String> {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let mut hasher = DefaultHasher::new();
                check(input).hash(&mut hasher);
                hasher.finish()
            }));
            outcome.map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let literal = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                text.or_else(literal).unwrap_or_else(|| "panic".into())
            })
        };
        let begun = Instant::now();
        let mut now = Now::new(&self.corpus);
        let mut kinds = HashSet::new();
        let mut pool = Vec::new();
        let mut longest = 0;
        for (file, input) in self.stored() {
            now.is(&input);
            match attempt(&input) {
                Ok(kind) => drop(kinds.insert(kind)),
                Err(message) => return Err(Box::new(Finding { file, message })),
            }
            longest = longest.max(input.len());
            pool.push(input);
        }
        let stored = pool.len();
        assert!(stored > 0, "nothing stored in {}", self.corpus.display());
        let most = SHORT.max(4 * longest);
        let mut random = Random::new(self.seed);
        let mut executions = 0;
        while match self.budget {
            Budget::Rounds(rounds) => executions < rounds,
            Budget::Time(time) => begun.elapsed() < time,
        } {
            let mut input = pool[random.below(pool.len())].clone();
            mutate(&mut input, &pool, &self.words, &mut random, most);
            now.is(&input);
            executions += 1;
            match attempt(&input) {
                Ok(kind) => {
                    if pool.len() < stored + POOL && kinds.insert(kind) {
                        pool.push(input);
                    }
                }
                Err(first) => {
                    let input = shortened(input, |less| attempt(less).is_err());
                    let message = attempt(&input).err().unwrap_or(first);
                    let file = self.store(&input);
                    return Err(Box::new(Finding { file, message }));
                }
            }
        }
        Ok(Figures {
            stored,
            executions,
            kinds: kinds.len(),
            time: begun.elapsed(),
        })
    }

    /// The inputs of the corpus by name.
    fn stored(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(&self.corpus).into_iter().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let read = |path: PathBuf| {
            let input = fs::read(&path).unwrap();
            (path, input)
        };
        files.into_iter().map(read).collect()
    }

    fn store(&self, input: &[u8]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let file = self.corpus.join(format!("found-{:016x}", hasher.finish()));
        fs::write(&file, input).unwrap();
        file
    }
}

/// Leaves out stretch after stretch, as long as it still fails.
fn shortened(mut input: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut attempts = 0;
    let mut width = input.len() / 2;
    while width > 0 && attempts < CUTS {
        let mut at = 0;
        while at + width <= input.len() && attempts < CUTS {
            let mut less = input.clone();
            less.drain(at..at + width);
            attempts += 1;
            if fails(&less) {
                input = less;
            } else {
                at += width;
            }
        }
        width /= 2;
    }
    input
}

/// Without a limit, what asks for too much is the end of the whole machine.
fn limit_memory() {
    let limit = Rlimit {
        current: Some(MEMORY),
        maximum: getrlimit(Resource::Data).maximum,
    };
    setrlimit(Resource::Data, limit).unwrap();
}

/// The input of now on disk, where it is found when the process does not
/// survive it, and a watch over the time it takes.
struct Now {
    path: PathBuf,
    file: fs::File,
    number: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Now {
    fn new(corpus: &Path) -> Self {
        let name = corpus.file_name().unwrap().to_string_lossy().into_owned();
        let path = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        let (number, over) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let (seen, ended, input) = (number.clone(), over.clone(), path.clone());
        thread::spawn(move || {
            let mut last = (0, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(HANG / 300);
                match seen.load(Ordering::Relaxed) {
                    same if same == last.0 => {
                        if last.1.elapsed() > HANG {
                            say(&format!("fuzz {name}: hangs on {}", input.display()));
                            std::process::abort();
                        }
                    }
                    other => last = (other, Instant::now()),
                }
            }
        });
        Self {
            path,
            file,
            number,
            over,
        }
    }

    fn is(&mut self, input: &[u8]) {
        self.number.fetch_add(1, Ordering::Relaxed);
        self.file.seek(SeekFrom::Start(0)).unwrap();
        self.file.write_all(input).unwrap();
        self.file.set_len(input.len() as u64).unwrap();
    }
}

impl Drop for Now {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}

/// Past what a test's output is captured by, so that figures are seen.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn a_planted_fault_is_found_cut_down_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("planted");
    fs::create_dir(&corpus).unwrap();
    fs::write(corpus.join("seed"), "name=a\tclients=1").unwrap();
    let engine = |seed| Engine::new(corpus.clone(), &["key="], seed, Budget::Rounds(50_000));
    let check = |input: &[u8]| {
        let text = super::text(input);
        let named = text.contains("key=");
        let number = text.split("clients=").nth(1).and_then(|n| n.parse().ok());
        assert!(!(named && number == Some(u64::MAX)), "planted");
        (named, number.is_some())
    };
    let found = engine(1).run(check).err().expect("it is found");
    assert_eq!(found.message, "planted");
    let kept = fs::read(&found.file).unwrap();
    assert_eq!(kept.len(), "key=clients=18446744073709551615".len());
    // From now on it is the first to be tried.
    let again = engine(2).run(check).err().expect("it is found again");
    assert_eq!(again.file, found.file);
    fs::remove_file(&found.file).unwrap();
    let other = |seed| engine(seed).run(|_| ()).ok().unwrap().executions;
    assert_eq!(other(3), 50_000);
}
