//! Files into a pixel and out of it. Between two runs what was made is
//! removed, outside the timed part.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{Lab, VOLUME};
use crate::measure::{Contender, Who};
use crate::process::Program;
use crate::report::Outcome;
use crate::rows::Bench;

const SMALL: usize = 2000;
const SMALL_BYTES: usize = 2048;

/// The words of a transfer, for each program.
type Words = fn(who: Who, name: &str, here: &str) -> Vec<String>;

pub fn push(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let file = bench.lab()?.file()?;
    let inside = "/root/file";
    into(bench, &file, inside, |who, name, here| match who {
        Who::Incus => words(&["file", "push", here, &format!("{name}/root/file")]),
        _ => words(&["push", here, &format!("{name}:/root/file")]),
    })
}

pub fn push_small(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let folder = small(bench.lab()?)?;
    into(bench, &folder, "/root/small", |who, name, here| match who {
        Who::Incus => words(&["file", "push", "-r", here, &format!("{name}/root/")]),
        _ => words(&["push", here, &format!("{name}:/root/")]),
    })
}

pub fn pull(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let make = format!("head -c {VOLUME} /dev/urandom >/root/large");
    inside(lab, &["sh", "-c", &make])?;
    out(bench, |who, name, here| match who {
        Who::Incus => words(&["file", "pull", &format!("{name}/root/large"), here]),
        _ => words(&["pull", &format!("{name}:/root/large"), here]),
    })
}

pub fn pull_small(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let make = format!(
        "mkdir -p /root/many && cd /root/many && head -c {} /dev/urandom | split -b {SMALL_BYTES} -a 4",
        SMALL * SMALL_BYTES
    );
    inside(lab, &["sh", "-c", &make])?;
    out(bench, |who, name, here| match who {
        Who::Incus => words(&["file", "pull", "-r", &format!("{name}/root/many"), here]),
        _ => words(&["pull", &format!("{name}:/root/many"), here]),
    })
}

fn words(of: &[&str]) -> Vec<String> {
    of.iter().map(|&word| word.to_owned()).collect()
}

fn run(program: &Program, words: &[String]) -> Result<Duration> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    program.run(&words)
}

fn inside(lab: &Lab, command: &[&str]) -> Result<()> {
    let code = lab.api().exec(&lab.instance("base"), command)?;
    ensure!(code == 0, "{command:?} ended with {code}");
    Ok(())
}

/// Sends what is `here`; it arrives as `there`.
fn into(bench: &Bench<'_>, here: &Path, there: &'static str, words: Words) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let contenders = bench.programs().map(|(who, path)| {
        let program = lab.program(path);
        let words = words(who, &lab.called(who, "base"), &here.display().to_string());
        Contender::new(who, move || {
            let took = run(&program, &words)?;
            inside(lab, &["rm", "-r", there])?;
            // The daemon has what came by its file access written to the disk
            // when the client is gone, at the expense of the next client.
            inside(lab, &["sync", "-f", "/root"])?;
            Ok(took)
        })
    });
    bench.compare(contenders.collect())
}

/// Fetches to a place of its own.
fn out(bench: &Bench<'_>, words: Words) -> Result<Outcome> {
    let lab = bench.lab()?;
    let contenders = bench.programs().map(|(who, path)| {
        let program = lab.program(path);
        Contender::new(who, move || {
            let folder = scratch()?;
            let here = folder.path().join("here").display().to_string();
            if matches!(words(who, "", "").get(2).map(String::as_str), Some("-r")) {
                // The client wants the folder to be there.
                std::fs::create_dir(&here)?;
            }
            run(&program, &words(who, &lab.called(who, "base"), &here))
        })
    });
    bench.compare(contenders.collect())
}

/// In memory where that can be: a disk that is still giving back the blocks of
/// the run before would be measured in place of the transfer.
fn scratch() -> std::io::Result<tempfile::TempDir> {
    const MEMORY: &str = "/dev/shm";
    if Path::new(MEMORY).is_dir() {
        return tempfile::tempdir_in(MEMORY);
    }
    tempfile::tempdir()
}

/// A folder of small files.
fn small(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.folder().join("small");
    std::fs::create_dir_all(&folder)?;
    for index in 0..SMALL {
        let content: Vec<u8> = (0..SMALL_BYTES).map(|i| (i * 7 + index) as u8).collect();
        std::fs::write(folder.join(format!("file-{index}")), content)?;
    }
    Ok(folder)
}
