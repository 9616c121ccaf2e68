//! `pixels list`

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Context;
use crate::sandbox::Instance;
use crate::ui::Row;

/// List all pixels
#[derive(Debug, Args)]
pub struct ListArgs {}

#[derive(Serialize)]
struct Line {
    name: String,
    instance: String,
    status: &'static str,
    ip: Option<String>,
    image: Option<String>,
    cpu: Option<String>,
    memory: Option<String>,
    created_at: Option<String>,
    from: Option<String>,
}

impl From<Instance> for Line {
    fn from(pixel: Instance) -> Self {
        Self {
            instance: pixel.name.instance(),
            name: pixel.name.to_string(),
            status: pixel.status.as_str(),
            ip: pixel.addresses.first().map(ToString::to_string),
            from: pixel.properties.get("from").cloned(),
            image: pixel.image,
            cpu: pixel.cpu,
            memory: pixel.memory,
            created_at: rfc3339(pixel.created_at),
        }
    }
}

/// UTC, to the second.
pub fn rfc3339(seconds: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()?
        .format(&Rfc3339)
        .ok()
}

impl Row for Line {
    const HEADERS: &'static [&'static str] = &["NAME", "STATUS", "IP"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.status.to_owned(),
            self.ip.clone().unwrap_or_else(|| "—".into()),
        ]
    }
}

impl ListArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let sandbox = context.sandbox()?;
        let pixels = context.unless_interrupted(sandbox.list()).await?;
        let lines: Vec<Line> = pixels.into_iter().map(Line::from).collect();
        context
            .ui
            .rows(&lines, "No pixels found. Make one with: pixels create NAME");
        Ok(())
    }
}
