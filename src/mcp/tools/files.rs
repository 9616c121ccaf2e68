//! Tools for files in a sandbox.

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::{tool, tool_router};
use serde::{Deserialize, Serialize};

use super::{Done, Tools, bare_name, done, to_result};
use crate::mcp::encoding::{Encoding, FileContent, Listing, decode_content};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// The whole content of the file.
    content: String,
    /// Encoding of content: "utf-8" (default) or "base64" for binary files.
    encoding: Option<Encoding>,
    /// Permission bits in octal; by default "0644", or those of the existing file.
    mode: Option<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// Maximum bytes to read, by default 1 MiB, at most 10 MiB.
    max_bytes: Option<u64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// The text to replace, exactly as in the file; must occur once.
    old_string: String,
    /// The replacement.
    new_string: String,
    /// Replace all occurrences.
    replace_all: Option<bool>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the directory.
    path: String,
    /// Include all subdirectories.
    recursive: Option<bool>,
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

#[tool_router(router = file_tools, vis = "pub(super)")]
impl Tools {
    /// Create or replace a file, and create missing parent directories. Send
    /// binary content as base64.
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
            let bytes = decode_content(args.content, args.encoding)?;
            let mode = args.mode.as_deref();
            let name = bare_name(&args.name);
            let written = self.service.write_file(name, &args.path, bytes, mode);
            Ok(Written {
                bytes_written: written.await?,
                ok: true,
            })
        };
        to_result(outcome.await)
    }

    /// Read a file. Binary content is returned as base64; `truncated` is true if
    /// the file is longer than max_bytes.
    #[tool(annotations(title = "Read file", read_only_hint = true, open_world_hint = false))]
    async fn read_file(
        &self,
        Parameters(args): Parameters<ReadArgs>,
    ) -> Result<Json<FileContent>, String> {
        let name = bare_name(&args.name);
        to_result(
            self.service
                .read_file(name, &args.path, args.max_bytes)
                .await,
        )
    }

    /// Replace text in a file. Fails without changes if old_string does not occur,
    /// or occurs more than once without replace_all. Keeps owner and mode.
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
            bare_name(&args.name),
            &args.path,
            &args.old_string,
            &args.new_string,
            args.replace_all.unwrap_or(false),
        );
        to_result(edited.await.map(|replacements| Edited {
            ok: true,
            replacements,
        }))
    }

    /// Delete a file or link.
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
        done(
            self.service
                .delete_file(bare_name(&args.name), &args.path)
                .await,
        )
    }

    /// List a directory, optionally with all subdirectories.
    #[tool(annotations(title = "List files", read_only_hint = true, open_world_hint = false))]
    async fn list_files(
        &self,
        Parameters(args): Parameters<ListArgs>,
    ) -> Result<Json<Listing>, String> {
        let recursive = args.recursive.unwrap_or(false);
        let name = bare_name(&args.name);
        to_result(self.service.list_files(name, &args.path, recursive).await)
    }
}
