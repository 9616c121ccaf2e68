//! Tools for commands in a sandbox.

use std::collections::BTreeMap;
use std::time::Duration;

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Tools, bare_name, to_result, with_progress};
use crate::mcp::exec::{Command, ExecOutput};
use crate::mcp::jobs::{JobProgress, Offsets};

/// Many models send a shell command line first: the error shows the right form.
fn argv<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ArgvOrOther {
        Argv(Vec<String>),
        Other(IgnoredAny),
    }
    match ArgvOrOther::deserialize(deserializer)? {
        ArgvOrOther::Argv(argv) => Ok(argv),
        ArgvOrOther::Other(_) => Err(D::Error::custom(
            "command must be a list of the program and its arguments, such as \
             [\"ls\", \"-l\"] or [\"sh\", \"-c\", \"ls | wc -l\"]",
        )),
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecArgs {
    /// Name of the sandbox.
    name: String,
    /// The program and its arguments. No shell is involved: for pipes, globs and
    /// variables use ["sh", "-c", "..."].
    #[serde(deserialize_with = "argv")]
    command: Vec<String>,
    /// Working directory, by default the user's home.
    cwd: Option<String>,
    /// Environment variables to set.
    env: Option<BTreeMap<String, String>>,
    /// Standard input of the command.
    stdin: Option<String>,
    /// Kill the command after this many seconds; the server limits the value.
    timeout_sec: Option<i64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartArgs {
    /// Name of the sandbox.
    name: String,
    /// The program and its arguments, as for exec.
    #[serde(deserialize_with = "argv")]
    command: Vec<String>,
    /// Working directory, by default the user's home.
    cwd: Option<String>,
    /// Environment variables to set.
    env: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollArgs {
    /// Name of the sandbox.
    name: String,
    /// The job_id that exec_start returned.
    job_id: String,
    /// Offset in stdout to continue at; by default the beginning.
    stdout_offset: Option<u64>,
    /// Offset in stderr to continue at; by default the beginning.
    stderr_offset: Option<u64>,
    /// Wait up to this many seconds, at most 60, for new output or the end of the
    /// job.
    wait_sec: Option<u32>,
}

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
    /// Pass it to exec_poll and exec_kill.
    job_id: String,
}

#[tool_router(router = exec_tools, vis = "pub(super)")]
impl Tools {
    /// Run a command in a sandbox and wait for it. A failed command is a result
    /// with its exit_code, not an error. Long output is shortened in the middle,
    /// with a marker. For commands longer than a minute use exec_start.
    #[tool(annotations(
        title = "Run command",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = true
    ))]
    async fn exec(
        &self,
        Parameters(args): Parameters<ExecArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<ExecOutput>, String> {
        let command = Command {
            argv: args.command,
            cwd: args.cwd,
            env: args.env.unwrap_or_default(),
        };
        let timeout = args
            .timeout_sec
            .and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = timeout
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let stdin = args.stdin.unwrap_or_default().into_bytes();
        let name = bare_name(&args.name);
        let work = self
            .service
            .exec(name, command, stdin, timeout, &context.ct);
        to_result(with_progress(&context, "running the command", work).await)
    }

    /// Start a command in the background, for long builds, tests and servers. It
    /// also survives a restart of this MCP server. Returns a job_id.
    #[tool(annotations(
        title = "Start job",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = true
    ))]
    async fn exec_start(
        &self,
        Parameters(args): Parameters<StartArgs>,
    ) -> Result<Json<Started>, String> {
        let command = Command {
            argv: args.command,
            cwd: args.cwd,
            env: args.env.unwrap_or_default(),
        };
        let started = self
            .service
            .exec_start(bare_name(&args.name), command)
            .await;
        to_result(started.map(|job_id| Started { job_id }))
    }

    /// Get the state of a job and its output from the given offsets on.
    #[tool(annotations(title = "Poll job", read_only_hint = true, open_world_hint = false))]
    async fn exec_poll(
        &self,
        Parameters(args): Parameters<PollArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<JobProgress>, String> {
        let from = Offsets {
            stdout: args.stdout_offset.unwrap_or(0),
            stderr: args.stderr_offset.unwrap_or(0),
        };
        let wait = Duration::from_secs(args.wait_sec.unwrap_or(0).into());
        let name = bare_name(&args.name);
        let work = self.service.exec_poll(name, &args.job_id, from, wait);
        to_result(with_progress(&context, "waiting for the job", work).await)
    }

    /// Kill a job with all processes it has started.
    #[tool(annotations(
        title = "Kill job",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn exec_kill(
        &self,
        Parameters(args): Parameters<JobArgs>,
    ) -> Result<Json<JobProgress>, String> {
        to_result(
            self.service
                .exec_kill(bare_name(&args.name), &args.job_id)
                .await,
        )
    }
}
