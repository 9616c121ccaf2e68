//! `pixels list`

use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Context;
use crate::lifecycle::provisioning;
use crate::sandbox::{Instance, Sandbox, Status};
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
    provision: Option<String>,
}

impl From<Instance> for Line {
    fn from(pixel: Instance) -> Self {
        Self {
            instance: pixel.name.instance(),
            name: pixel.name.to_string(),
            status: pixel.status.as_str(),
            ip: pixel.addresses.first().map(ToString::to_string),
            provision: provisioning::recorded(&pixel).map(str::to_owned),
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
    const HEADERS: &'static [&'static str] = &["NAME", "STATUS", "IP", "NOTE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.status.to_owned(),
            self.ip.clone().unwrap_or_else(|| "—".into()),
            match self.provision.as_deref() {
                Some("failed") => "provisioning failed".into(),
                Some("running") => "provisioning".into(),
                _ => String::new(),
            },
        ]
    }
}

/// Brings the record of pixels up to date whose provisioning was under way
/// when somebody last looked.
async fn look_again(sandbox: &dyn Sandbox, pixels: &mut [Instance]) {
    let unsettled = pixels
        .iter_mut()
        .filter(|pixel| pixel.status == Status::Running && provisioning::unsettled(pixel));
    join_all(unsettled.map(|pixel| async {
        match provisioning::observe(sandbox, pixel).await {
            Ok(report) => provisioning::record(pixel, &report),
            // The listing stands without it.
            Err(error) => tracing::debug!(%error, name = %pixel.name, "status"),
        }
    }))
    .await;
}

impl ListArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let sandbox = context.sandbox()?;
        let mut pixels = context.unless_interrupted(sandbox.list()).await?;
        context
            .unless_interrupted(async {
                look_again(sandbox, &mut pixels).await;
                Ok(())
            })
            .await?;
        let lines: Vec<Line> = pixels.into_iter().map(Line::from).collect();
        context
            .ui
            .rows(&lines, "No pixels found. Make one with: pixels create NAME");
        Ok(())
    }
}
