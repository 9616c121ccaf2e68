//! `pixels list`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Context, expire, from_settings};
use crate::egress::gateway::address_of;
use crate::lifecycle::gateway::{self, GatewaySpec, Health};
use crate::lifecycle::{self, expiry, provisioning};
use crate::model::{Backend, Instance, Name, Result, Status};
use crate::ui::{self, Row};

/// List all pixels
#[derive(Debug, Args)]
pub struct ListArgs {}

#[derive(Serialize)]
struct ListRow {
    name: String,
    instance: String,
    status: &'static str,
    ip: Option<String>,
    /// The mode of its policy; `invalid` for a record that cannot be read.
    egress: String,
    /// `gateway` or `pixel`.
    enforced_by: Option<&'static str>,
    /// Why it has no network: the state of its gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_network: Option<&'static str>,
    image: Option<String>,
    cpu: Option<String>,
    memory: Option<String>,
    created_at: Option<String>,
    expires_at: Option<String>,
    from: Option<String>,
    provision: Option<String>,
    /// Until it expires.
    #[serde(skip)]
    left: Option<Duration>,
}

impl From<Instance> for ListRow {
    fn from(pixel: Instance) -> Self {
        Self {
            instance: pixel.name.instance(),
            name: pixel.name.to_string(),
            status: pixel.status.as_str(),
            ip: pixel.addresses.first().map(ToString::to_string),
            egress: match lifecycle::recorded_policy(&pixel) {
                Ok(policy) => policy.mode.to_string(),
                Err(_) => "invalid".into(),
            },
            enforced_by: lifecycle::Enforcer::of_instance(&pixel).name(),
            no_network: None,
            provision: provisioning::recorded_state(&pixel).map(str::to_owned),
            from: pixel.properties.get("from").cloned(),
            created_at: rfc3339(pixel.created_at),
            expires_at: expiry::expires_at(&pixel).and_then(rfc3339),
            left: expiry::remaining(&pixel),
            image: pixel.image,
            cpu: pixel.cpu,
            memory: pixel.memory,
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

impl Row for ListRow {
    const HEADERS: &'static [&'static str] = &["NAME", "STATUS", "IP", "EGRESS", "NOTE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.status.to_owned(),
            self.ip.clone().unwrap_or_else(|| "—".into()),
            self.egress.clone(),
            self.notes().join(", "),
        ]
    }
}

impl ListRow {
    fn notes(&self) -> Vec<String> {
        let gateway = self
            .no_network
            .map(|state| format!("no network: gateway {state}"));
        let provision = match self.provision.as_deref() {
            Some("failed") => Some("provisioning failed".to_owned()),
            Some("running") => Some("provisioning".to_owned()),
            _ => None,
        };
        let expires = self
            .left
            .map(|left| format!("expires in {}", ui::human_duration(left)));
        gateway
            .into_iter()
            .chain(provision)
            .chain(expires)
            .collect()
    }
}

/// Fills in the addresses that gateways give out, and says which pixels have
/// no network for want of one.
async fn gateway_states(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixels: &mut [Instance],
) -> Result<BTreeMap<Name, &'static str>> {
    let mut states: BTreeMap<String, Health> = BTreeMap::new();
    let mut without = BTreeMap::new();
    for pixel in pixels.iter_mut() {
        let Some(bridge) = &pixel.isolated_bridge else {
            continue;
        };
        if pixel.status != Status::Running {
            continue;
        }
        if !states.contains_key(bridge) {
            let health =
                gateway::recorded_health(backend, &gateway_spec.for_bridge(bridge)).await?;
            states.insert(bridge.clone(), health);
        }
        match &states[bridge] {
            Health::Good { .. } => pixel.addresses.extend(address_of(pixel)),
            other => {
                without.insert(pixel.name.clone(), other.name());
            }
        }
    }
    Ok(without)
}

/// For one pixel to say how far it is; of one that does not, the record is shown.
const LOOK: Duration = Duration::from_secs(4);

/// Brings the record of pixels up to date whose provisioning was under way
/// when somebody last looked.
async fn refresh_provisioning(backend: &dyn Backend, pixels: &mut [Instance]) {
    let unsettled = pixels
        .iter_mut()
        .filter(|pixel| pixel.status == Status::Running && provisioning::is_unfinished(pixel));
    join_all(unsettled.map(|pixel| async {
        match tokio::time::timeout(LOOK, provisioning::observe(backend, pixel)).await {
            Ok(Ok(report)) => provisioning::set_recorded_state(pixel, &report),
            // The listing stands without it.
            Ok(Err(error)) => tracing::debug!(%error, name = %pixel.name, "status"),
            Err(_) => tracing::debug!(name = %pixel.name, "status: nothing heard"),
        }
    }))
    .await;
}

impl ListArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let mut pixels = context.unless_interrupted(backend.list()).await?;
        expire::destroy_expired(context, &mut pixels).await?;
        context
            .unless_interrupted(async {
                refresh_provisioning(backend, &mut pixels).await;
                Ok(())
            })
            .await?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let without = context
            .unless_interrupted(gateway_states(backend, &gateway_spec, &mut pixels))
            .await?;
        let lines: Vec<ListRow> = pixels
            .into_iter()
            .map(|pixel| ListRow {
                no_network: without.get(&pixel.name).copied(),
                ..ListRow::from(pixel)
            })
            .collect();
        context
            .ui
            .rows(&lines, "No pixels found. Make one with: pixels create NAME");
        Ok(())
    }
}
