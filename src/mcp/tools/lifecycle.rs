//! Tools that create, list, start, stop and destroy sandboxes.

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};
use serde::{Deserialize, Serialize};

use super::{Done, Tools};
use crate::base::{BaseStatus, Parent};
use crate::egress::Denial;
use crate::mcp::create_request::CreateRequest;
use crate::mcp::error::Result;
use crate::mcp::response::SandboxView;
use crate::mcp::truncate::{self, ITEMS};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameArgs {
    /// Name of the sandbox, as returned by create_sandbox.
    name: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Sandboxes {
    sandboxes: Vec<SandboxView>,
    /// Number of further sandboxes that are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<usize>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Bases {
    bases: Vec<BaseView>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct BaseView {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// "ready", "outdated" (usable, but its recipe has changed), "building",
    /// "missing" (built on first use), "failed" or "unusable".
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The checkpoint that sandboxes are cloned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_checkpoint: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Denials {
    /// Denials of the last hour, latest first, at most 200.
    denials: Vec<DenialView>,
    /// Number of earlier denials that are not listed.
    earlier: usize,
    /// Further denied addresses were not recorded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    full: bool,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct DenialView {
    /// The name that was looked up, or an address and port.
    destination: String,
    protocol: String,
    count: u64,
    /// Time of the last denial, in seconds since 1970.
    last: u64,
    /// The `allow` entry that would permit the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
}

#[tool_router(router = lifecycle_tools, vis = "pub(super)")]
impl Tools {
    /// Create a disposable Linux machine from a base, an image or the default
    /// image. Returns at once with status "provisioning" unless wait_sec is set;
    /// the sandbox is usable when its status is "running".
    #[tool(annotations(title = "Create sandbox", destructive_hint = false))]
    async fn create_sandbox(
        &self,
        Parameters(request): Parameters<CreateRequest>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<SandboxView>> {
        let wait_sec = request.wait_sec;
        let created = self.service.create(request).await?;
        self.wait_for_create(&context, created, wait_sec).await
    }

    /// List all sandboxes with their status, address, idle time and expiry.
    #[tool(annotations(title = "List sandboxes", read_only_hint = true))]
    async fn list_sandboxes(&self) -> Result<Json<Sandboxes>> {
        let mut sandboxes = self.service.list().await?;
        let omitted = sandboxes.len().saturating_sub(ITEMS);
        sandboxes.truncate(ITEMS);
        Ok(Json(Sandboxes {
            sandboxes,
            omitted: (omitted > 0).then_some(omitted),
        }))
    }

    /// List the bases: prepared machines that create_sandbox can clone.
    #[tool(annotations(title = "List bases", read_only_hint = true))]
    async fn list_bases(&self) -> Result<Json<Bases>> {
        let base_builder = &self.service.base_builder;
        let mut bases = Vec::new();
        for (name, base) in &base_builder.bases {
            let status = base_builder.status(&*self.service.backend, name).await?;
            let (parent_image, from) = match &base.parent {
                Parent::Image(image) => (Some(image.clone()), None),
                Parent::Base(parent) => (None, Some(parent.clone())),
            };
            let error = match &status {
                BaseStatus::Missing => self.service.base_builds.recent_failure(name),
                _ => None,
            };
            bases.push(BaseView {
                name: name.clone(),
                description: base.description.clone(),
                parent_image,
                from,
                status: match &error {
                    Some(_) => "failed".to_owned(),
                    None => status.as_str().to_owned(),
                },
                error: error.map(truncate::text),
                last_checkpoint: match status {
                    BaseStatus::Ready { checkpoint, .. } => Some(checkpoint.to_string()),
                    _ => None,
                },
            });
        }
        Ok(Json(Bases { bases }))
    }

    /// Start a stopped sandbox. Files are kept, processes are not.
    #[tool(annotations(
        title = "Start sandbox",
        destructive_hint = false,
        idempotent_hint = true
    ))]
    async fn start_sandbox(
        &self,
        Parameters(args): Parameters<NameArgs>,
    ) -> Result<Json<SandboxView>> {
        Ok(Json(self.service.start(&args.name).await?))
    }

    /// Stop a sandbox. Files are kept, all its processes end.
    #[tool(annotations(
        title = "Stop sandbox",
        destructive_hint = false,
        idempotent_hint = true
    ))]
    async fn stop_sandbox(&self, Parameters(args): Parameters<NameArgs>) -> Result<Json<Done>> {
        self.service.stop(&args.name).await?;
        Ok(Json(Done::OK))
    }

    /// Destroy a sandbox with its files and checkpoints, permanently.
    #[tool(annotations(title = "Destroy sandbox", idempotent_hint = true))]
    async fn destroy_sandbox(&self, Parameters(args): Parameters<NameArgs>) -> Result<Json<Done>> {
        self.service.destroy(&args.name).await?;
        Ok(Json(Done::OK))
    }

    /// List the destinations that the network policy has denied to a sandbox in
    /// the last hour, each with the `allow` entry of create_sandbox that would
    /// permit it. Call this when a connection or a name lookup fails.
    #[tool(annotations(title = "Network denials", read_only_hint = true))]
    async fn network_denials(
        &self,
        Parameters(args): Parameters<NameArgs>,
    ) -> Result<Json<Denials>> {
        let denials = self.service.denials(&args.name).await?;
        let view = |denial: Denial| DenialView {
            destination: denial.destination,
            protocol: denial.protocol,
            count: denial.count,
            last: denial.last,
            entry: denial.rule,
        };
        Ok(Json(Denials {
            denials: denials.latest.into_iter().map(view).collect(),
            earlier: denials.earlier,
            full: denials.full,
        }))
    }
}
