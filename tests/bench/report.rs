//! The report: a table for people, JSON for programs.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use crate::args::Args;
use crate::binary::Binary;
use crate::lab::{Lab, VOLUME};
use crate::measure::{Times, Who};
use crate::rows::{Row, Target};

pub enum Outcome {
    Times(Vec<Times>),
    Size { bytes: u64, is_static: bool },
    NotMeasured(String),
}

pub struct Report {
    binary: Value,
    server: Value,
    runs: usize,
    earlier: bool,
    pub rows: Vec<(&'static Row, Outcome)>,
    pub notes: Vec<String>,
}

impl Report {
    pub fn new(args: &Args, binary: &Binary, lab: Option<&Lab>) -> Self {
        let server = lab.and_then(|lab| lab.server().ok());
        Self {
            binary: json!({
                "built": binary.kind,
                "static": binary.is_static,
                "bytes": binary.bytes,
            }),
            server: server.map_or(
                Value::Null,
                |(version, storage)| json!({"incus": version, "storage": storage}),
            ),
            runs: args.runs(),
            earlier: args.earlier.is_some(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(|(row, out)| line(row, out)).collect();
        let document = json!({
            "binary": self.binary,
            "server": self.server,
            "runs": self.runs,
            "rows": rows,
            "notes": self.notes,
        });
        format!("{document:#}\n")
    }

    fn columns(&self) -> Vec<Who> {
        let mut columns = vec![Who::Pixels, Who::Incus, Who::Api, Who::Open];
        let measured = |who: &Who| {
            self.rows.iter().any(|(_, outcome)| match outcome {
                Outcome::Times(times) => times.iter().any(|times| times.who == *who),
                _ => false,
            })
        };
        columns.extend([Who::Few, Who::Quiet].into_iter().filter(measured));
        if self.earlier {
            columns.push(Who::Earlier);
        }
        columns
    }
}

fn line(row: &Row, outcome: &Outcome) -> Value {
    let mut line = json!({"name": row.name, "case": row.case, "target": row.target.words()});
    match outcome {
        Outcome::NotMeasured(reason) => line["not_measured"] = json!(reason),
        Outcome::Size { bytes, is_static } => {
            line["bytes"] = json!(bytes);
            line["static"] = json!(is_static);
        }
        Outcome::Times(times) => {
            for of in times {
                line["times"][of.who.key()] = json!({
                    "median_ms": millis(of.median()),
                    "min_ms": millis(of.sorted[0]),
                    "max_ms": millis(of.sorted[of.sorted.len() - 1]),
                    "runs": of.sorted.len(),
                });
            }
        }
    }
    if let Some((ratio, met)) = verdict(row, outcome) {
        line["ratio"] = json!((ratio * 1000.0).round() / 1000.0);
        line["ok"] = json!(met);
    }
    if let Outcome::Times(times) = outcome
        && let (Some(now), Some(before)) = (median(times, Who::Pixels), median(times, Who::Earlier))
    {
        line["against_earlier"] = json!((now / before * 1000.0).round() / 1000.0);
    }
    line
}

/// The ratio to the reference, and whether the result meets the target.
fn verdict(row: &Row, outcome: &Outcome) -> Option<(f64, bool)> {
    match (row.target, outcome) {
        (Target::Time(at_most, of), Outcome::Times(times)) => {
            let ratio = median(times, Who::Pixels)? / median(times, of)?;
            Some((ratio, ratio <= at_most))
        }
        (Target::Throughput(at_least, of), Outcome::Times(times)) => {
            let ratio = median(times, of)? / median(times, Who::Pixels)?;
            Some((ratio, ratio >= at_least))
        }
        (Target::Within(at_most), Outcome::Times(times)) => {
            let ratio = median(times, Who::Pixels)? * 1e3 / at_most;
            Some((ratio, ratio <= 1.0))
        }
        (Target::Bytes(at_most), Outcome::Size { bytes, is_static }) => Some((
            *bytes as f64 / at_most as f64,
            *is_static && *bytes <= at_most,
        )),
        _ => None,
    }
}

fn median(times: &[Times], who: Who) -> Option<f64> {
    let of = times.iter().find(|times| times.who == who)?;
    Some(of.median().as_secs_f64())
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Target {
    fn words(self) -> String {
        match self {
            Self::Time(at_most, of) => format!("<= {at_most} x {}", of.title()),
            Self::Throughput(at_least, of) => {
                format!(">= {at_least:.1} x {}, throughput", of.title())
            }
            Self::Within(at_most) => format!("<= {at_most} ms"),
            Self::Bytes(at_most) => format!("<= {} MB, static", at_most / 1_000_000),
        }
    }
}

impl Who {
    fn key(self) -> &'static str {
        match self {
            Self::Pixels => "pixels",
            Self::Earlier => "earlier",
            Self::Open => "open",
            Self::Few => "few",
            Self::Quiet => "quiet",
            Self::Incus => "incus",
            Self::Api => "api",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Api => "raw API",
            other => other.key(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        let mut table = Builder::default();
        let mut head = vec!["ROW".to_owned(), "CASE".to_owned()];
        head.extend(columns.iter().map(|who| who.title().to_owned()));
        head.extend(["RATIO", "TARGET", ""].map(str::to_owned));
        table.push_record(head);
        for (row, outcome) in &self.rows {
            let mut cells = vec![row.name.to_owned(), row.case.to_owned()];
            cells.extend(columns.iter().map(|who| cell(row, outcome, *who)));
            let (ratio, word) = match verdict(row, outcome) {
                Some((ratio, true)) => (format!("{ratio:.2}"), "ok"),
                Some((ratio, false)) => (format!("{ratio:.2}"), "MISS"),
                None => (String::new(), "not measured"),
            };
            cells.extend([ratio, row.target.words(), word.to_owned()]);
            table.push_record(cells);
        }
        let drawn = table
            .build()
            .with(Style::empty())
            .with(Padding::new(0, 2, 0, 0))
            .to_string();
        for line in drawn.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        let (runs, built) = (self.runs, self.binary["built"].as_str().unwrap_or_default());
        writeln!(
            f,
            "\nmedians of {runs} or more runs, taken in turns; binary: {built}"
        )?;
        let server = |key: &str| self.server[key].as_str();
        if let (Some(version), Some(storage)) = (server("incus"), server("storage")) {
            writeln!(f, "daemon: Incus {version}, {storage}")?;
        }
        for (row, outcome) in &self.rows {
            if let Outcome::NotMeasured(reason) = outcome {
                writeln!(f, "{} was not measured: {reason}", row.name)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

fn cell(row: &Row, outcome: &Outcome, who: Who) -> String {
    match outcome {
        Outcome::Times(times) => match median(times, who) {
            Some(seconds) if matches!(row.target, Target::Throughput(..)) => {
                format!("{:.0} MB/s", VOLUME as f64 / 1e6 / seconds)
            }
            Some(seconds) => format!("{:.1} ms", seconds * 1e3),
            None => String::new(),
        },
        Outcome::Size { bytes, .. } if who == Who::Pixels => {
            format!("{:.1} MB", *bytes as f64 / 1e6)
        }
        _ => String::new(),
    }
}
