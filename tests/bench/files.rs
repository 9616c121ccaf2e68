//! Benchmarks of file transfers. Transferred files are deleted after each run,
//! outside the measured time.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::lab::{Lab, VOLUME};
use crate::measure::Who;
use crate::report::Outcome;
use crate::rows::Bench;

const SMALL: usize = 2000;
const SMALL_BYTES: usize = 2048;

/// Arguments of a transfer. `HERE` is the local path, `NAME` the pixel.
struct Words {
    pixels: &'static str,
    incus: &'static str,
}

impl Words {
    fn fill(&self, lab: &Lab, who: Who, here: &str) -> Vec<String> {
        let (name, words) = (
            lab.called(who, "base"),
            match who {
                Who::Incus => self.incus,
                _ => self.pixels,
            },
        );
        let words = words.split(' ');
        words
            .map(|word| word.replace("NAME", &name).replace("HERE", here))
            .collect()
    }
}

pub fn push(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let words = Words {
        pixels: "push HERE NAME:/root/file",
        incus: "file push HERE NAME/root/file",
    };
    into(bench, lab, &lab.file()?, "/root/file", &words)
}

pub fn push_small(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let words = Words {
        pixels: "push HERE NAME:/root/",
        incus: "file push -r HERE NAME/root/",
    };
    into(bench, lab, &small(lab)?, "/root/small", &words)
}

pub fn pull(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let make = format!("head -c {VOLUME} /dev/urandom >/root/large");
    inside(lab, &["sh", "-c", &make])?;
    let words = Words {
        pixels: "pull NAME:/root/large HERE",
        incus: "file pull NAME/root/large HERE",
    };
    out(bench, lab, &words)
}

pub fn pull_small(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let make = format!(
        "mkdir -p /root/many && cd /root/many && head -c {} /dev/urandom | split -b {SMALL_BYTES} -a 4",
        SMALL * SMALL_BYTES
    );
    inside(lab, &["sh", "-c", &make])?;
    let words = Words {
        pixels: "pull NAME:/root/many HERE",
        incus: "file pull -r NAME/root/many HERE",
    };
    out(bench, lab, &words)
}

fn inside(lab: &Lab, command: &[&str]) -> Result<()> {
    let code = lab.api().exec(&lab.instance("base"), command)?;
    ensure!(code == 0, "{command:?} exited with {code}");
    Ok(())
}

/// Measures the transfer of `here` to `there` in the pixel.
fn into(bench: &Bench<'_>, lab: &Lab, here: &Path, there: &str, words: &Words) -> Result<Outcome> {
    let here = here.display().to_string();
    bench.compare(bench.contenders(lab, |who, program| {
        let words = words.fill(lab, who, &here);
        move || {
            let took = program.run(&words)?;
            inside(lab, &["rm", "-r", there])?;
            // The daemon writes uploaded files to disk after the client has
            // exited, which would delay the next client.
            inside(lab, &["sync", "-f", "/root"])?;
            Ok(took)
        }
    }))
}

/// Measures a transfer from the pixel to a new local path.
fn out(bench: &Bench<'_>, lab: &Lab, words: &Words) -> Result<Outcome> {
    bench.compare(bench.contenders(lab, |who, program| {
        move || {
            let folder = scratch()?;
            let here = folder.path().join("here");
            let words = words.fill(lab, who, &here.display().to_string());
            if words.iter().any(|word| word == "-r") {
                // The incus client requires an existing folder.
                std::fs::create_dir(&here)?;
            }
            program.run(&words)
        }
    }))
}

/// A temporary directory, in memory if possible: a disk that still frees the
/// blocks of the previous run would distort the result.
fn scratch() -> std::io::Result<tempfile::TempDir> {
    const MEMORY: &str = "/dev/shm";
    if Path::new(MEMORY).is_dir() {
        return tempfile::tempdir_in(MEMORY);
    }
    tempfile::tempdir()
}

/// Creates a folder with small files.
fn small(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.folder().join("small");
    std::fs::create_dir_all(&folder)?;
    for index in 0..SMALL {
        let content: Vec<u8> = (0..SMALL_BYTES).map(|i| (i * 7 + index) as u8).collect();
        std::fs::write(folder.join(format!("file-{index}")), content)?;
    }
    Ok(folder)
}
