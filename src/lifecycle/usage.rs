//! Resource usage of running pixels, with rates between two samples.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use serde::Serialize;

use crate::model::{Backend, Error, Instance, Name, Result, Status, Usage};

/// Number of concurrent requests.
const MAX_PARALLEL: usize = 8;

/// The usage of all running pixels at the time of each request.
pub type UsageSample = BTreeMap<Name, (Instant, Usage)>;

/// The usage of a pixel, with rates since the previous sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageRow {
    pub name: String,
    /// CPU usage. 100 means one busy CPU.
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

/// Samples the running pixels in `pixels`. Skips pixels that start or stop
/// during the request.
pub async fn sample(backend: &dyn Backend, pixels: &[Instance]) -> Result<UsageSample> {
    let running = pixels
        .iter()
        .filter(|pixel| pixel.status == Status::Running);
    let requests = running.map(|pixel| async {
        let usage = backend.usage(&pixel.name).await;
        (pixel.name.clone(), Instant::now(), usage)
    });
    let answers: Vec<_> = stream::iter(requests)
        .buffered(MAX_PARALLEL)
        .collect()
        .await;
    let mut sample = UsageSample::new();
    for (name, at, usage) in answers {
        match usage {
            Ok(usage) => drop(sample.insert(name, (at, usage))),
            // The server has no usage of a pixel that starts or stops.
            Err(error @ (Error::NotFound(_) | Error::Server { .. })) => {
                tracing::debug!(%error, %name, "no usage");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sample)
}

/// Returns rows with the usage in `after` and the rates since the other sample,
/// sorted by CPU usage, highest first.
pub fn rows_between(
    before: &UsageSample,
    after: &UsageSample,
    pixels: &[Instance],
) -> Vec<UsageRow> {
    let mut rows: Vec<UsageRow> = pixels
        .iter()
        .filter_map(|pixel| {
            let (at, usage) = after.get(&pixel.name)?;
            let (earlier_at, earlier) = before.get(&pixel.name).copied().unwrap_or((*at, *usage));
            let seconds = at.duration_since(earlier_at).as_secs_f64();
            // A restart of the pixel resets the counters.
            let rate = |bytes: u64, earlier: u64| {
                per_second(bytes.saturating_sub(earlier) as f64, seconds) as u64
            };
            let cpu = usage.cpu.saturating_sub(earlier.cpu);
            Some(UsageRow {
                name: pixel.name.to_string(),
                cpu_percent: percent(cpu, seconds),
                memory_bytes: usage.memory,
                memory_limit: pixel.memory.clone(),
                disk_bytes: usage.disk,
                received_bytes: usage.received,
                sent_bytes: usage.sent,
                received_per_second: rate(usage.received, earlier.received),
                sent_per_second: rate(usage.sent, earlier.sent),
                processes: usage.processes,
            })
        })
        .collect();
    rows.sort_by(|a, b| {
        let by_cpu = b.cpu_percent.total_cmp(&a.cpu_percent);
        by_cpu.then_with(|| a.name.cmp(&b.name))
    });
    rows
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
    fn rates_are_per_second_between_samples() {
        assert_eq!(percent(Duration::from_millis(1500), 1.0), 150.0);
        assert_eq!(percent(Duration::from_millis(1), 0.0), 0.0);
        assert_eq!(per_second(10.0, 2.0), 5.0);
    }
}
