//! `pixels expire`

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::pixel_arg::PixelArg;
use super::{Context, duration_arg};
use crate::lifecycle::expiry;
use crate::model::rfc3339;
use crate::ui;

/// Set or clear a pixel's expiry
///
/// The next list, top or prune by any user deletes expired pixels, running or not.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels expire box 2h"
    "pixels expire box 7d"
    "pixels expire box never"
))]
pub struct ExpireArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Time from now, such as 90m, 2h or 7d, or never
    #[arg(value_name = "DURATION|never", allow_negative_numbers = true, value_parser = parse_expiry)]
    after: Expiry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expiry {
    Never,
    After(Duration),
}

fn parse_expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry::Never),
        _ => duration_arg::parse_duration_arg(text).map(Expiry::After),
    }
}

impl ExpireArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = &self.pixel.name;
        let (after, sentence) = match self.after {
            Expiry::Never => (None, format!("{name} does not expire")),
            Expiry::After(time) => {
                let text = ui::human_duration(time);
                (Some(time), format!("{name} expires in {text}"))
            }
        };
        let setting = expiry::set(context.backend()?, name, after);
        let expires_at = context.unless_interrupted(setting).await?;
        let json = json!({"name": name.as_str(), "expires_at": expires_at.and_then(rfc3339)});
        context.ui.done(&sentence, &json);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_expiry_never_clears_expiry() {
        assert_eq!(parse_expiry("never"), Ok(Expiry::Never));
        let hour = Expiry::After(Duration::from_secs(3600));
        assert_eq!(parse_expiry("1h"), Ok(hour));
    }
}
