//! Tools that work inside a sandbox: commands and files.

use std::collections::BTreeMap;
use std::time::Duration;

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, tool, tool_router};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Done, Tools, answer, bare, done, with_progress};
use crate::mcp::encoding::{Content, Encoding, Listing, decoded};
use crate::mcp::exec::{Command, ExecOutput};
use crate::mcp::jobs::{Offsets, Progress};

/// Clients try a line for a shell first, and are told what to give instead.
fn argv<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Argv(Vec<String>),
        Other(IgnoredAny),
    }
    match Given::deserialize(from)? {
        Given::Argv(argv) => Ok(argv),
        Given::Other(_) => Err(D::Error::custom(
            "command is a list of the program and its arguments, such as \
             [\"ls\", \"-l\"] or [\"sh\", \"-c\", \"ls | wc -l\"]",
        )),
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecArgs {
    /// Of the sandbox.
    name: String,
    /// The program and its arguments, passed exactly; for pipes and such use
    /// ["sh", "-c", "..."].
    #[serde(deserialize_with = "argv")]
    command: Vec<String>,
    /// Folder to run in, by default the home of the sandbox's user.
    cwd: Option<String>,
    /// Variables to set.
    env: Option<BTreeMap<String, String>>,
    /// What the command reads on its input.
    stdin: Option<String>,
    /// End it after so many seconds; the server has a limit of its own.
    timeout_sec: Option<i64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartArgs {
    /// Of the sandbox.
    name: String,
    /// The program and its arguments, passed exactly.
    #[serde(deserialize_with = "argv")]
    command: Vec<String>,
    /// Folder to run in, by default the home of the sandbox's user.
    cwd: Option<String>,
    /// Variables to set.
    env: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollArgs {
    /// Of the sandbox.
    name: String,
    /// As exec_start returned it.
    job_id: String,
    /// Where to read on in its output; by default from the beginning.
    stdout_offset: Option<u64>,
    /// Where to read on in its errors; by default from the beginning.
    stderr_offset: Option<u64>,
    /// Wait up to so many seconds, at most 60, for it to print more or to end.
    wait_sec: Option<u32>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobArgs {
    /// Of the sandbox.
    name: String,
    /// As exec_start returned it.
    job_id: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteArgs {
    /// Of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    content: String,
    /// Of content: "utf-8" unless it is "base64".
    encoding: Option<Encoding>,
    /// Permission bits in octal, by default "0644", or what an existing file has.
    mode: Option<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadArgs {
    /// Of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// Read no more than this, by default 1 MiB and at most 10 MiB.
    max_bytes: Option<u64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditArgs {
    /// Of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// What to replace, exactly as it is in the file; must be in it once.
    old_string: String,
    /// What to put there.
    new_string: String,
    /// Replace it wherever it is.
    replace_all: Option<bool>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathArgs {
    /// Of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListArgs {
    /// Of the sandbox.
    name: String,
    /// Absolute path of the folder.
    path: String,
    /// Everything below it, too.
    recursive: Option<bool>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Started {
    /// For exec_poll and exec_kill.
    job_id: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Written {
    ok: bool,
    bytes_written: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Edited {
    ok: bool,
    replacements: u64,
}

#[tool_router(router = work_tools, vis = "pub(super)")]
impl Tools {
    /// Run a command in a sandbox and wait for it. A command that fails is a
    /// result with its exit_code. Long output is cut in the middle, where the
    /// text says so. For what takes longer than a minute use exec_start.
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
        let limit = args
            .timeout_sec
            .and_then(|seconds| u64::try_from(seconds).ok());
        let limit = limit
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let stdin = args.stdin.unwrap_or_default().into_bytes();
        let name = bare(&args.name);
        let work = self.service.exec(name, command, stdin, limit, &context.ct);
        answer(with_progress(&context, "running", work).await)
    }

    /// Start a command that goes on by itself, for long builds, servers and
    /// tests; it also survives a restart of this server. Returns its job_id.
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
        let started = self.service.exec_start(bare(&args.name), command).await;
        answer(started.map(|job_id| Started { job_id }))
    }

    /// Ask how a job is and read what it has printed since the given offsets.
    #[tool(annotations(title = "Poll job", read_only_hint = true, open_world_hint = false))]
    async fn exec_poll(
        &self,
        Parameters(args): Parameters<PollArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<Progress>, String> {
        let from = Offsets {
            stdout: args.stdout_offset.unwrap_or(0),
            stderr: args.stderr_offset.unwrap_or(0),
        };
        let wait = Duration::from_secs(args.wait_sec.unwrap_or(0).into());
        let name = bare(&args.name);
        let work = self.service.exec_poll(name, &args.job_id, from, wait);
        answer(with_progress(&context, "waiting for the job", work).await)
    }

    /// End a job and every process it has started.
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
    ) -> Result<Json<Progress>, String> {
        answer(self.service.exec_kill(bare(&args.name), &args.job_id).await)
    }

    /// Create or replace a file, with its folders where missing. Content that
    /// is no text goes in as base64.
    #[tool(annotations(
        title = "Write file",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn write_file(
        &self,
        Parameters(args): Parameters<WriteArgs>,
    ) -> Result<Json<Written>, String> {
        let outcome = async {
            let bytes = decoded(args.content, args.encoding)?;
            let mode = args.mode.as_deref();
            let name = bare(&args.name);
            let written = self.service.write_file(name, &args.path, bytes, mode);
            Ok(Written {
                bytes_written: written.await?,
                ok: true,
            })
        };
        answer(outcome.await)
    }

    /// Read a file. One that is no UTF-8 text comes as base64; `truncated` says
    /// that there is more than max_bytes.
    #[tool(annotations(title = "Read file", read_only_hint = true, open_world_hint = false))]
    async fn read_file(
        &self,
        Parameters(args): Parameters<ReadArgs>,
    ) -> Result<Json<Content>, String> {
        let name = bare(&args.name);
        answer(
            self.service
                .read_file(name, &args.path, args.max_bytes)
                .await,
        )
    }

    /// Replace text in a file. Refused, with nothing changed, when old_string
    /// is not in it or in it more than once without replace_all. Owner and mode
    /// stay.
    #[tool(annotations(
        title = "Edit file",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    async fn edit_file(
        &self,
        Parameters(args): Parameters<EditArgs>,
    ) -> Result<Json<Edited>, String> {
        let edited = self.service.edit_file(
            bare(&args.name),
            &args.path,
            &args.old_string,
            &args.new_string,
            args.replace_all.unwrap_or(false),
        );
        answer(edited.await.map(|replacements| Edited {
            ok: true,
            replacements,
        }))
    }

    /// Delete one file or link.
    #[tool(annotations(
        title = "Delete file",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn delete_file(
        &self,
        Parameters(args): Parameters<PathArgs>,
    ) -> Result<Json<Done>, String> {
        done(self.service.delete_file(bare(&args.name), &args.path).await)
    }

    /// List a folder, or everything below it.
    #[tool(annotations(title = "List files", read_only_hint = true, open_world_hint = false))]
    async fn list_files(
        &self,
        Parameters(args): Parameters<ListArgs>,
    ) -> Result<Json<Listing>, String> {
        let recursive = args.recursive.unwrap_or(false);
        let name = bare(&args.name);
        answer(self.service.list_files(name, &args.path, recursive).await)
    }
}
