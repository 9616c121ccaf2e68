//! `pixels mcp install`

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::mcp::install::{Client, Setup, Transport, Written};

/// Show what makes a client use this server, or put it into the client's file
///
/// By default the client starts `pixels mcp --stdio` itself; with --http it
/// goes to a server that runs already.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// For this client
    #[arg(long, value_enum, default_value = "claude")]
    client: Client,
    /// Put it into the client's file
    #[arg(long)]
    write: bool,
    /// Go to the address of a server that runs already
    #[arg(long)]
    http: bool,
}

impl InstallArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let mcp = &context.settings().mcp;
        let way = if self.http {
            Transport::Http {
                url: format!("http://{}{}", mcp.listen_addr, mcp.endpoint_path),
                token: mcp.auth_token.is_some(),
            }
        } else {
            let program = std::env::current_exe().context("finding this program's file")?;
            Transport::Stdio {
                program: program.display().to_string(),
            }
        };
        let home = std::env::home_dir().context("no home folder is known")?;
        let setup = Setup::for_client(self.client, &way, &home);
        let file = setup.file.display().to_string();
        if !self.write {
            if context.ui.json() {
                context
                    .ui
                    .value(&json!({"file": file, "text": setup.text()}));
                return Ok(());
            }
            context.ui.status(&format!("In {file}:\n"));
            context.ui.text(&setup.text());
            return Ok(());
        }
        let written = setup.write()?;
        let sentence = match written {
            Written::Added => format!("Added pixels to {file}; restart the client"),
            Written::Unchanged => format!("{file} has it already"),
        };
        let facts = json!({"file": file, "changed": written == Written::Added});
        context.ui.done(&sentence, &facts);
        Ok(())
    }
}
