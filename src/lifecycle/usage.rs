//! What running pixels use: two looks, and what lies between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use crate::model::{Backend, Error, Instance, Name, Result, Status, Usage};

/// Requests at the same time.
const AT_ONCE: usize = 8;

/// One look at all of them.
pub type UsageSample = BTreeMap<Name, (Instant, Usage)>;

/// One pixel between two looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageRow {
    pub name: String,
    /// Of one CPU: two busy ones are 200.
    pub cpu_percent: f64,
    pub memory_bytes: u64,
    pub memory_limit: Option<String>,
    pub disk_bytes: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub received_per_second: u64,
    pub sent_per_second: u64,
    pub processes: u64,
}

/// Looks at those of `pixels` that run. One that is just coming or going is
/// left out.
pub async fn sample(backend: &dyn Backend, pixels: &[Instance]) -> Result<UsageSample> {
    let running = pixels
        .iter()
        .filter(|pixel| pixel.status == Status::Running);
    let asked = running.map(|pixel| async {
        let usage = backend.usage(&pixel.name).await;
        (pixel.name.clone(), Instant::now(), usage)
    });
    let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let mut usages = UsageSample::new();
    for (name, at, usage) in answers {
        match usage {
            Ok(usage) => drop(usages.insert(name, (at, usage))),
            // Asked while it starts, stops or goes, the server knows no process.
            Err(error @ (Error::NotFound(_) | Error::Server { .. })) => {
                tracing::debug!(%error, %name, "usage");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(usages)
}

/// What happened between two looks, the busiest first.
pub fn between(before: &UsageSample, after: &UsageSample, pixels: &[Instance]) -> Vec<UsageRow> {
    let mut lines: Vec<UsageRow> = pixels
        .iter()
        .filter_map(|pixel| {
            let (now, usage) = after.get(&pixel.name)?;
            let (then, earlier) = before.get(&pixel.name).copied().unwrap_or((*now, *usage));
            let seconds = now.duration_since(then).as_secs_f64();
            // A restart in between sets the counters back.
            let rate = |now: u64, then: u64| per_second(now.saturating_sub(then) as f64, seconds);
            let cpu = usage.cpu.saturating_sub(earlier.cpu);
            Some(UsageRow {
                name: pixel.name.to_string(),
                cpu_percent: percent(cpu, seconds),
                memory_bytes: usage.memory,
                memory_limit: pixel.memory.clone(),
                disk_bytes: usage.disk,
                received_bytes: usage.received,
                sent_bytes: usage.sent,
                received_per_second: rate(usage.received, earlier.received) as u64,
                sent_per_second: rate(usage.sent, earlier.sent) as u64,
                processes: usage.processes,
            })
        })
        .collect();
    lines.sort_by(|a, b| {
        let busier = b.cpu_percent.total_cmp(&a.cpu_percent);
        busier.then_with(|| a.name.cmp(&b.name))
    });
    lines
}

fn percent(cpu: Duration, seconds: f64) -> f64 {
    let percent = per_second(cpu.as_secs_f64() * 100.0, seconds);
    (percent * 10.0).round() / 10.0
}

fn per_second(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_two_looks() {
        assert_eq!(percent(Duration::from_millis(1500), 1.0), 150.0);
        assert_eq!(percent(Duration::from_millis(1), 0.0), 0.0);
        assert_eq!(per_second(10.0, 2.0), 5.0);
    }
}
