//! `pixels list`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Context, from_settings, pixel_list};
use crate::lifecycle::{self, expiry, provisioning};
use crate::model::{Instance, rfc3339};
use crate::ui::{self, Row};

/// List all pixels
///
/// Deletes expired pixels first.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels list"
    "pixels list --json | jq -r '.[].name'"
))]
pub struct ListArgs {}

#[derive(Serialize)]
struct ListRow {
    name: String,
    instance: String,
    status: &'static str,
    ip: Option<String>,
    /// The mode of the policy, or `invalid` if the record cannot be parsed.
    egress: String,
    /// `gateway` or `pixel`.
    enforced_by: Option<&'static str>,
    /// State of the gateway because of which a running pixel has no network.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_network: Option<&'static str>,
    image: Option<String>,
    cpu: Option<String>,
    memory: Option<String>,
    disk: Option<String>,
    created_at: Option<String>,
    expires_at: Option<String>,
    from: Option<String>,
    provision: Option<String>,
    /// End of the provisioning lease, during which the preset rules apply too.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    #[serde(skip)]
    expires_in: Option<Duration>,
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
            lease_until: None,
            provision: provisioning::recorded_state(&pixel).map(str::to_owned),
            from: pixel.properties.get("from").cloned(),
            created_at: rfc3339(pixel.created_at),
            expires_at: expiry::expires_at(&pixel).and_then(rfc3339),
            expires_in: expiry::remaining(&pixel),
            image: pixel.image,
            cpu: pixel.cpu,
            memory: pixel.memory,
            disk: pixel.disk,
        }
    }
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
        let lease = self.lease_until.as_ref();
        let lease = lease.map(|_| "provisioning lease".to_owned());
        let expiry = self
            .expires_in
            .map(|time| format!("expires in {}", ui::human_duration(time)));
        let notes = gateway.into_iter().chain(provision);
        notes.chain(lease).chain(expiry).collect()
    }
}

impl ListArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let mut pixels = pixel_list::list_unexpired(context).await?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let work = async {
            let leases = lifecycle::leases(backend, &gateway_spec, &pixels).await;
            lifecycle::refresh_provisioning(backend, &mut pixels).await;
            let without_network =
                lifecycle::add_gateway_addresses(backend, &gateway_spec, &mut pixels).await?;
            Ok((leases, without_network))
        };
        let (leases, without_network) = context.unless_interrupted(work).await?;
        let rows: Vec<ListRow> = pixels
            .into_iter()
            .map(|pixel| ListRow {
                lease_until: leases.get(&pixel.name).copied().and_then(expiry::after),
                no_network: without_network.get(&pixel.name).map(|health| health.name()),
                ..ListRow::from(pixel)
            })
            .collect();
        context.ui.rows(
            &rows,
            "No pixels found. Create one with: pixels create NAME",
        );
        Ok(())
    }
}
