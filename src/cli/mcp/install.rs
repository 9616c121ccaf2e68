//! `pixels mcp install`

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::mcp::install::{Client, Setup, Transport, Written};

/// Print the MCP configuration of a client, or write it to its file
///
/// The client then starts `pixels mcp --stdio`. With --http, it connects to a server
/// that already runs.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels mcp install"
    "pixels mcp install --client codex --write"
    "pixels mcp install --client cursor --http"
))]
pub struct InstallArgs {
    /// The client
    #[arg(long, value_enum, default_value = "claude")]
    client: Client,
    /// Write the configuration to the client's file
    #[arg(long)]
    write: bool,
    /// Use the HTTP endpoint of a running server
    #[arg(long)]
    http: bool,
}

impl InstallArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let mcp = &context.settings().mcp;
        let transport = if self.http {
            Transport::Http {
                url: format!("http://{}{}", mcp.listen_addr, mcp.endpoint_path),
                token: mcp.auth_token.is_some(),
            }
        } else {
            let program = std::env::current_exe().context("cannot find this program's file")?;
            Transport::Stdio {
                program: program.display().to_string(),
            }
        };
        let home = std::env::home_dir().context("cannot find the home directory")?;
        let setup = Setup::for_client(self.client, &transport, &home);
        let file = setup.file.display().to_string();
        if !self.write {
            if context.ui.json() {
                context
                    .ui
                    .value(&json!({"file": file, "text": setup.text()}));
                return Ok(());
            }
            context.ui.status(&format!("Add to {file}:\n"));
            context.ui.text(&setup.text());
            return Ok(());
        }
        let written = setup.write()?;
        let sentence = match written {
            Written::Added => format!("Added pixels to {file}; restart the client"),
            Written::Unchanged => format!("Nothing to do: {file} already configures pixels"),
        };
        let json = json!({"file": file, "changed": written == Written::Added});
        context.ui.done(&sentence, &json);
        Ok(())
    }
}
