//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::rows::Row;

pub struct Args {
    pub runs: usize,
    pub json: Option<PathBuf>,
    pub binary: Option<PathBuf>,
    pub earlier: Option<PathBuf>,
    filters: Vec<String>,
}

impl Args {
    /// `None` when there is nothing to do: `cargo test --all-targets` starts
    /// benchmarks too, but without the argument that `cargo bench` adds.
    pub fn parse(given: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut args = Self {
            runs: 10,
            json: None,
            binary: None,
            earlier: None,
            filters: Vec::new(),
        };
        let mut benching = false;
        let mut given = given;
        while let Some(word) = given.next() {
            let mut value = || {
                given
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--bench" => benching = true,
                "--quick" => args.runs = 3,
                "--runs" => args.runs = value()?.parse().context("--runs")?,
                "--json" => args.json = Some(value()?.into()),
                "--binary" => args.binary = Some(value()?.into()),
                "--earlier" => args.earlier = Some(value()?.into()),
                _ if word.starts_with('-') => bail!(
                    "unknown option {word}: there are --quick, --runs N, --json FILE, \
                     --binary FILE and --earlier FILE"
                ),
                _ => args.filters.push(word),
            }
        }
        if args.runs == 0 {
            bail!("--runs must be at least 1");
        }
        Ok(benching.then_some(args))
    }

    /// The rows asked for, in their own order; all when none was named.
    pub fn choose(&self, rows: &'static [Row]) -> Result<Vec<&'static Row>> {
        for filter in &self.filters {
            if !rows.iter().any(|row| row.name.contains(filter.as_str())) {
                let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
                bail!("no row {filter:?}: there are {}", names.join(", "));
            }
        }
        let exact = |filter: &String| rows.iter().any(|row| row.name == filter);
        let wanted = |row: &&Row| {
            self.filters.is_empty()
                || self.filters.iter().any(|filter| {
                    row.name == filter || (!exact(filter) && row.name.contains(filter.as_str()))
                })
        };
        Ok(rows.iter().filter(wanted).collect())
    }
}
