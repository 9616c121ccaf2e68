//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::rows::Row;

#[derive(clap::Parser)]
#[command(name = "bench")]
pub struct Args {
    /// Rounds of each row [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Run 3 rounds, for a first look
    #[arg(long)]
    quick: bool,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Also measure another pixels binary
    #[arg(long, value_name = "FILE")]
    pub earlier: Option<PathBuf>,
    /// Added by `cargo bench`. `cargo test --all-targets` starts benchmarks
    /// without it, and then nothing is measured.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Rows by name (an exact name, else a part of one); by default all
    #[arg(value_name = "ROW")]
    filters: Vec<String>,
}

impl Args {
    pub fn runs(&self) -> usize {
        let usual = if self.quick { 3 } else { 10 };
        self.runs.unwrap_or(usual).into()
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
