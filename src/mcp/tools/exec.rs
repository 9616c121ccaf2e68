//! Tools for commands in a sandbox.

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};
use serde::{Deserialize, Serialize};

use super::{Tools, with_progress};
use crate::mcp::error::Result;
use crate::mcp::exec::{ExecArgs, ExecOutput, StartArgs};
use crate::mcp::jobs::{JobProgress, PollArgs};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobArgs {
    /// Name of the sandbox.
    name: String,
    /// The job_id that exec_start returned.
    job_id: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Started {
    /// Pass this id to exec_poll and exec_kill.
    job_id: String,
}

#[tool_router(router = exec_tools, vis = "pub(super)")]
impl Tools {
    /// Run a command in a sandbox and wait for it. A failed command is a result
    /// with its exit_code, not an error. Long output is shortened in the middle,
    /// with a marker. For commands longer than a minute use exec_start.
    #[tool(annotations(title = "Run command", open_world_hint = true))]
    async fn exec(
        &self,
        Parameters(args): Parameters<ExecArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<ExecOutput>> {
        let work = self.service.exec(args, &context.ct);
        with_progress(&context, "running the command", work).await
    }

    /// Start a command in the background, for long builds, tests and servers. It
    /// also survives a restart of this MCP server. Returns a job_id.
    #[tool(annotations(title = "Start job", open_world_hint = true))]
    async fn exec_start(&self, Parameters(args): Parameters<StartArgs>) -> Result<Json<Started>> {
        let job_id = self.service.exec_start(args).await?;
        Ok(Json(Started { job_id }))
    }

    /// Get the state of a job and its output from the given offsets on.
    #[tool(annotations(title = "Poll job", read_only_hint = true))]
    async fn exec_poll(
        &self,
        Parameters(args): Parameters<PollArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<JobProgress>> {
        let work = self.service.exec_poll(args);
        with_progress(&context, "waiting for the job", work).await
    }

    /// Kill a job with all processes it has started.
    #[tool(annotations(title = "Kill job", idempotent_hint = true))]
    async fn exec_kill(&self, Parameters(args): Parameters<JobArgs>) -> Result<Json<JobProgress>> {
        let progress = self.service.exec_kill(&args.name, &args.job_id).await?;
        Ok(Json(progress))
    }
}
