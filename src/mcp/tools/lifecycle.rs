//! Tools that make, list, change and remove sandboxes.

use std::time::Duration;

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};
use serde::{Deserialize, Serialize};

use super::{Done, Tools, WAIT, answer, bare, done, with_progress};
use crate::base::BaseStatus;
use crate::config::Parent;
use crate::mcp::create_request::CreateRequest;
use crate::mcp::error::Result;
use crate::mcp::response::View;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateArgs {
    /// A word of yours for it, shown by list_sandboxes.
    label: Option<String>,
    /// Image to make it from, such as "ubuntu/24.04"; by default the server's.
    image: Option<String>,
    /// Base to clone instead of an image; see list_bases. Built first where it
    /// is missing, which takes minutes.
    base: Option<String>,
    /// What it may reach: "unrestricted", "agent" (package registries, git
    /// hosts, model APIs) or "allowlist" (only `allow`). By default what the
    /// base or the server says.
    egress: Option<String>,
    /// Allow this as well: hosts, *.hosts, addresses or networks, each with an
    /// optional :port.
    allow: Option<Vec<String>>,
    /// CPUs: a count such as "2" or a set such as "0-3".
    cpu: Option<String>,
    /// Memory in MiB, or with a unit such as "4GiB".
    memory: Option<String>,
    /// Destroy it after this time, such as "30m" or "2h".
    ttl: Option<String>,
    /// Wait this many seconds for it to run; by default return at once, with
    /// status "provisioning". A call that is cancelled while it waits makes
    /// nothing.
    wait_sec: Option<u32>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameArgs {
    /// Of the sandbox, as create_sandbox returned it.
    name: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointArgs {
    /// Of the sandbox.
    name: String,
    /// Of the checkpoint: a-z, 0-9, -, . and _; by default one is made up.
    label: Option<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreArgs {
    /// Of the sandbox.
    name: String,
    /// Of the checkpoint.
    label: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkArgs {
    /// Of the sandbox to clone.
    name: String,
    /// Label of its checkpoint to clone; by default its present state.
    checkpoint: Option<String>,
    /// A word of yours for the clone.
    label: Option<String>,
    /// Destroy the clone after this time, such as "30m".
    ttl: Option<String>,
    /// Wait this many seconds for it to run.
    wait_sec: Option<u32>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Sandboxes {
    sandboxes: Vec<View>,
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
    /// ready, outdated (works, but its recipe has changed), building, missing
    /// (built on first use), failed or unusable.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What sandboxes are cloned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_checkpoint: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Checkpointed {
    name: String,
    /// Of the new checkpoint.
    label: String,
    /// Of all its checkpoints, oldest first.
    checkpoints: Vec<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Denials {
    /// Within the last hour, the latest first.
    denials: Vec<DenialView>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct DenialView {
    /// A name that was looked up, or an address and port.
    destination: String,
    protocol: String,
    count: u64,
    /// Seconds since 1970.
    last: u64,
    /// The `allow` entry that would admit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
}

#[tool_router(router = lifecycle_tools, vis = "pub(super)")]
impl Tools {
    /// Make a new disposable Linux machine, from a base, an image or the
    /// default image. Returns at once with status "provisioning" unless
    /// wait_sec is given; it can be used when its status is "running".
    #[tool(annotations(
        title = "Create sandbox",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    async fn create_sandbox(
        &self,
        Parameters(args): Parameters<CreateArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<View>, String> {
        let request = CreateRequest {
            label: args.label,
            image: args.image,
            base: args.base,
            egress: args.egress,
            allow: args.allow.unwrap_or_default(),
            cpu: args.cpu,
            memory: args.memory,
            ttl: args.ttl,
        };
        let made = self.service.create(request).await;
        self.waited(&context, made, args.wait_sec).await
    }

    /// List all sandboxes with their status, address, idle time and expiry.
    #[tool(annotations(
        title = "List sandboxes",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn list_sandboxes(&self) -> Result<Json<Sandboxes>, String> {
        answer(
            self.service
                .list()
                .await
                .map(|sandboxes| Sandboxes { sandboxes }),
        )
    }

    /// List the bases: prepared machines that create_sandbox can clone.
    #[tool(annotations(title = "List bases", read_only_hint = true, open_world_hint = false))]
    async fn list_bases(&self) -> Result<Json<Bases>, String> {
        answer(self.bases().await)
    }

    /// Start a stopped sandbox; its disk is as it was, processes are not.
    #[tool(annotations(
        title = "Start sandbox",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn start_sandbox(
        &self,
        Parameters(args): Parameters<NameArgs>,
    ) -> Result<Json<View>, String> {
        answer(self.service.start(bare(&args.name)).await)
    }

    /// Stop a sandbox: its disk is kept, everything that runs in it ends.
    #[tool(annotations(
        title = "Stop sandbox",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn stop_sandbox(
        &self,
        Parameters(args): Parameters<NameArgs>,
    ) -> Result<Json<Done>, String> {
        done(self.service.stop(bare(&args.name)).await)
    }

    /// Destroy a sandbox with all its files and checkpoints, for good.
    #[tool(annotations(
        title = "Destroy sandbox",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn destroy_sandbox(
        &self,
        Parameters(args): Parameters<NameArgs>,
    ) -> Result<Json<Done>, String> {
        done(self.service.destroy(bare(&args.name)).await)
    }

    /// Take a checkpoint of a sandbox's disk, to come back to with
    /// restore_sandbox or to clone with fork_sandbox. What runs goes on.
    #[tool(annotations(
        title = "Checkpoint sandbox",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    async fn checkpoint_sandbox(
        &self,
        Parameters(args): Parameters<CheckpointArgs>,
    ) -> Result<Json<Checkpointed>, String> {
        let name = bare(&args.name);
        let outcome = async {
            let label = self.service.checkpoint(name, args.label.as_deref()).await?;
            Ok(Checkpointed {
                name: name.to_owned(),
                label,
                checkpoints: self.service.checkpoints(name).await?,
            })
        };
        answer(outcome.await)
    }

    /// Put a sandbox's disk back to a checkpoint. Everything since is lost; a
    /// running sandbox is restarted.
    #[tool(annotations(
        title = "Restore sandbox",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn restore_sandbox(
        &self,
        Parameters(args): Parameters<RestoreArgs>,
    ) -> Result<Json<View>, String> {
        answer(self.service.restore(bare(&args.name), &args.label).await)
    }

    /// Clone a sandbox, or one of its checkpoints, into a new one with the same
    /// files, limits and network policy. Takes about a second.
    #[tool(annotations(
        title = "Fork sandbox",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    async fn fork_sandbox(
        &self,
        Parameters(args): Parameters<ForkArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<View>, String> {
        let checkpoint = args.checkpoint.as_deref();
        let name = bare(&args.name);
        let made = self
            .service
            .fork(name, checkpoint, args.label, args.ttl)
            .await;
        self.waited(&context, made, args.wait_sec).await
    }

    /// What the network policy has refused to a sandbox within the last hour,
    /// and which `allow` entry of create_sandbox would admit it. Look here when
    /// a connection or a name fails.
    #[tool(annotations(
        title = "Network denials",
        read_only_hint = true,
        open_world_hint = false
    ))]
    async fn network_denials(
        &self,
        Parameters(args): Parameters<NameArgs>,
    ) -> Result<Json<Denials>, String> {
        let outcome = self.service.denials(bare(&args.name)).await;
        answer(outcome.map(|all| {
            Denials {
                denials: all
                    .into_iter()
                    .map(|denial| DenialView {
                        destination: denial.destination,
                        protocol: denial.protocol,
                        count: denial.count,
                        last: denial.last,
                        entry: denial.entry,
                    })
                    .collect(),
            }
        }))
    }

    async fn waited(
        &self,
        context: &RequestContext<RoleServer>,
        made: Result<View>,
        seconds: Option<u32>,
    ) -> Result<Json<View>, String> {
        let (Ok(view), Some(seconds)) = (&made, seconds) else {
            return answer(made);
        };
        let limit = Duration::from_secs(seconds.into()).min(WAIT);
        let waiting = async {
            tokio::select! {
                waited = self.service.wait(&view.name, limit) => waited,
                // Nobody would ever know its name.
                () = context.ct.cancelled() => Err(self.service.cancel_create(&view.name).await),
            }
        };
        answer(with_progress(context, "making the sandbox", waiting).await)
    }

    async fn bases(&self) -> Result<Bases> {
        let base_builder = &self.service.base_builder;
        let mut bases = Vec::new();
        for (name, base) in &base_builder.bases {
            let state = base_builder.status(&*self.service.backend, name).await?;
            let mut view = BaseView {
                name: name.clone(),
                description: base.description.clone(),
                parent_image: None,
                from: None,
                status: state.as_str().to_owned(),
                error: None,
                last_checkpoint: None,
            };
            match &base.parent {
                Parent::Image(image) => view.parent_image = Some(image.clone()),
                Parent::Base(parent) => view.from = Some(parent.clone()),
            }
            match state {
                BaseStatus::Ready { checkpoint, .. } => {
                    view.last_checkpoint = Some(checkpoint.to_string())
                }
                BaseStatus::Missing => {
                    view.error = self.service.builder.failure(name);
                    if view.error.is_some() {
                        view.status = "failed".to_owned();
                    }
                }
                BaseStatus::Building | BaseStatus::Unusable => {}
            }
            bases.push(view);
        }
        Ok(Bases { bases })
    }
}
