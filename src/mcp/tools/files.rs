//! Tools for files in a sandbox.

use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::{tool, tool_router};
use serde::Deserialize;

use super::{Done, Tools};
use crate::mcp::encoding::{FileContent, Listing};
use crate::mcp::error::Result;
use crate::mcp::files::{EditArgs, Edited, ListArgs, ReadArgs, WriteArgs, Written};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
}

#[tool_router(router = file_tools, vis = "pub(super)")]
impl Tools {
    /// Create or replace a file, and create missing parent directories. Send
    /// binary content as base64.
    #[tool(annotations(title = "Write file", idempotent_hint = true))]
    async fn write_file(&self, Parameters(args): Parameters<WriteArgs>) -> Result<Json<Written>> {
        Ok(Json(self.service.write_file(args).await?))
    }

    /// Read a file. Binary content is returned as base64; `truncated` is true if
    /// the file is longer than max_bytes.
    #[tool(annotations(title = "Read file", read_only_hint = true))]
    async fn read_file(&self, Parameters(args): Parameters<ReadArgs>) -> Result<Json<FileContent>> {
        Ok(Json(self.service.read_file(args).await?))
    }

    /// Replace text in a file. Fails without changes if old_string does not occur,
    /// or occurs more than once without replace_all. Keeps owner and mode.
    #[tool(annotations(title = "Edit file"))]
    async fn edit_file(&self, Parameters(args): Parameters<EditArgs>) -> Result<Json<Edited>> {
        Ok(Json(self.service.edit_file(args).await?))
    }

    /// Delete a file or link.
    #[tool(annotations(title = "Delete file", idempotent_hint = true))]
    async fn delete_file(&self, Parameters(args): Parameters<PathArgs>) -> Result<Json<Done>> {
        self.service.delete_file(&args.name, &args.path).await?;
        Ok(Json(Done::OK))
    }

    /// List a directory, optionally with all subdirectories.
    #[tool(annotations(title = "List files", read_only_hint = true))]
    async fn list_files(&self, Parameters(args): Parameters<ListArgs>) -> Result<Json<Listing>> {
        Ok(Json(self.service.list_files(args).await?))
    }
}
