//! `pixels expire`, and what every command does that lists pixels: it removes
//! those whose time is over.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, from_settings, list};
use crate::lifecycle::expiry;
use crate::model::{Instance, Name};
use crate::ui;

/// Let a pixel go by itself after a time, or never
///
/// Nothing waits for that moment: the next command that lists pixels (list,
/// top, prune) after it removes the pixel.
#[derive(Debug, Args)]
pub struct ExpireArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// From now on, such as 90m, 2h or 7d; or never
    #[arg(value_name = "DURATION|never", allow_negative_numbers = true, value_parser = parse_expiry)]
    after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Never,
    Time(Duration),
}

fn parse_expiry(text: &str) -> Result<After, String> {
    match text {
        "never" => Ok(After::Never),
        _ => parse_lifetime(text).map(After::Time),
    }
}

/// `90m`, `1h30m`, and whole days: `7d`.
pub fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<u32>().ok());
    let time = match days {
        Some(days) => Some(Duration::from_secs(u64::from(days) * 86400)),
        None => crate::model::parse_duration(text),
    };
    match time {
        Some(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("expected a time of at least a second, such as 90m, 2h or 7d".into()),
    }
}

impl ExpireArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let (after, sentence) = match self.after {
            After::Never => (None, format!("{} does not expire", self.name)),
            After::Time(time) => {
                let lasting = ui::human_duration(time);
                (Some(time), format!("{} expires in {lasting}", self.name))
            }
        };
        let setting = expiry::set(backend, &self.name, after);
        let end = context.unless_interrupted(setting).await?;
        let facts = json!({
            "name": self.name.as_str(),
            "expires_at": end.and_then(list::rfc3339),
        });
        context.ui.done(&sentence, &facts);
        Ok(())
    }
}

/// Removes those whose time is over, and says so.
pub async fn destroy_expired(context: &Context, pixels: &mut Vec<Instance>) -> anyhow::Result<()> {
    if !pixels.iter().any(expiry::is_expired) {
        return Ok(());
    }
    let backend = context.backend()?;
    let gateway_spec = from_settings::gateway_from_settings(context)?;
    let work = expiry::destroy_expired(backend, &gateway_spec, pixels);
    let outcomes = context.unless_interrupted(async { Ok(work.await) }).await?;
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => context
                .ui
                .status(&format!("Removed {name}: its time was over")),
            Err(error) => context.ui.warn(&format!(
                "{name} has expired and could not be removed: {error}"
            )),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_known_and_moments_are_no_lifetimes() {
        assert_eq!(parse_lifetime("7d"), Ok(Duration::from_secs(7 * 86400)));
        assert_eq!(parse_lifetime("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "0s", "1ms", "0d", "-1d", "d", "tomorrow", "never", "90"] {
            assert!(parse_lifetime(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_expiry("never"), Ok(After::Never));
    }
}
