//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::rows::Row;

#[derive(clap::Parser)]
#[command(name = "bench")]
pub struct Args {
    /// Number of rounds per row [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Run only 3 rounds per row
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
    /// Added by `cargo bench`. `cargo test --all-targets` runs benchmarks
    /// without this option, and then nothing is measured.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Names of rows, or parts of names [default: all rows]
    #[arg(value_name = "ROW")]
    filters: Vec<String>,
}

impl Args {
    pub fn runs(&self) -> usize {
        let usual = if self.quick { 3 } else { 10 };
        self.runs.unwrap_or(usual).into()
    }

    /// The selected rows in table order. All rows if none is selected.
    pub fn choose(&self, rows: &'static [Row]) -> Result<Vec<&'static Row>> {
        for filter in &self.filters {
            if !rows.iter().any(|row| row.name.contains(filter.as_str())) {
                let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
                bail!("no row {filter:?} in {}", names.join(", "));
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
