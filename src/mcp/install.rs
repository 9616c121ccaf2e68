//! Configuration files of MCP clients, and the entry that adds this server.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::replace_file::replace_file;

const NAME: &str = "pixels";
const TOKEN: &str = "PIXELS_MCP_AUTH_TOKEN";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    Claude,
    Codex,
    Opencode,
    Cursor,
}

/// The connection from a client to the server.
#[derive(Debug, Clone)]
pub enum Transport {
    /// The client starts this program, which connects to the user's server or
    /// starts a server.
    Stdio { program: String },
    /// A running server. `token`: whether the server requires a token, which
    /// the client reads from its environment.
    Http { url: String, token: bool },
}

/// The configuration file of a client and the entry for it.
#[derive(Debug)]
pub struct Setup {
    pub file: PathBuf,
    is_toml: bool,
    /// Key of the JSON object that contains the servers by name.
    table: &'static str,
    entry: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Added,
    /// The file already contains the entry.
    Unchanged,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot edit {}: {reason}; add the entry by hand", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} has a different server named {NAME}; edit the entry by hand", path.display())]
    OtherEntry { path: PathBuf },
}

impl Setup {
    pub fn for_client(client: Client, transport: &Transport, home: &Path) -> Self {
        let (file, table, entry) = match client {
            Client::Claude => {
                let entry = common_entry(transport, &format!("Bearer ${{{TOKEN}}}"));
                (".claude.json", "mcpServers", entry)
            }
            Client::Cursor => {
                let entry = common_entry(transport, &format!("Bearer ${{env:{TOKEN}}}"));
                (".cursor/mcp.json", "mcpServers", entry)
            }
            Client::Opencode => {
                let entry = opencode_entry(transport);
                (".config/opencode/opencode.json", "mcp", entry)
            }
            Client::Codex => (".codex/config.toml", "mcp_servers", codex_entry(transport)),
        };
        Self {
            file: home.join(file),
            is_toml: client == Client::Codex,
            table,
            entry,
        }
    }

    /// Returns the text to add to the file by hand.
    pub fn text(&self) -> String {
        if self.is_toml {
            let entry = toml::to_string(&self.entry).unwrap_or_default();
            return format!("[{}.{NAME}]\n{entry}", self.table);
        }
        let document = json!({ self.table: { NAME: self.entry } });
        format!("{document:#}\n")
    }

    /// Adds the entry to the file and keeps all other settings. Fails without
    /// changes if the file cannot be parsed or contains a different entry.
    pub fn write(&self) -> Result<Written, Error> {
        let io = |source| Error::Io {
            path: self.file.clone(),
            source,
        };
        let old = match std::fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io(error)),
        };
        let Some(new) = self.added_to(&old)? else {
            return Ok(Written::Unchanged);
        };
        let metadata = std::fs::metadata(&self.file);
        // Replace the target of a symlink, not the symlink.
        let file = std::fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
        replace_file(&file, new.as_bytes()).map_err(io)?;
        if let Ok(metadata) = metadata {
            std::fs::set_permissions(&file, metadata.permissions()).map_err(io)?;
        }
        Ok(Written::Added)
    }

    /// Returns the new text; `None` if the document contains the entry.
    fn added_to(&self, old: &str) -> Result<Option<String>, Error> {
        let unreadable = |reason: String| Error::Unreadable {
            path: self.file.clone(),
            reason,
        };
        let document = match old.trim() {
            _ if self.is_toml => toml::from_str(old).map_err(|e| e.to_string()),
            "" => Ok(json!({})),
            text => serde_json::from_str(text).map_err(|e| e.to_string()),
        };
        let mut document: Value = document.map_err(unreadable)?;
        let root = document
            .as_object_mut()
            .ok_or_else(|| unreadable("not a JSON object".into()))?;
        let servers = root
            .entry(self.table)
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .ok_or_else(|| unreadable(format!("{} is not a JSON object", self.table)))?;
        match servers.get(NAME) {
            Some(existing) if *existing == self.entry => return Ok(None),
            Some(_) => {
                let path = self.file.clone();
                return Err(Error::OtherEntry { path });
            }
            None => servers.insert(NAME.into(), self.entry.clone()),
        };
        if !self.is_toml {
            return Ok(Some(format!("{document:#}\n")));
        }
        // Comments in the file are kept.
        let gap = if old.trim().is_empty() { "" } else { "\n" };
        let end = if old.is_empty() || old.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        Ok(Some(format!("{old}{end}{gap}{}", self.text())))
    }
}

/// The entry that several clients have in common.
fn common_entry(transport: &Transport, authorization: &str) -> Value {
    match transport {
        Transport::Stdio { program } => {
            json!({"type": "stdio", "command": program, "args": ["mcp", "--stdio"]})
        }
        Transport::Http { url, token: false } => json!({"type": "http", "url": url}),
        Transport::Http { url, token: true } => {
            json!({"type": "http", "url": url, "headers": {"Authorization": authorization}})
        }
    }
}

fn opencode_entry(transport: &Transport) -> Value {
    match transport {
        Transport::Stdio { program } => {
            json!({"type": "local", "command": [program, "mcp", "--stdio"], "enabled": true})
        }
        Transport::Http { url, token: false } => {
            json!({"type": "remote", "url": url, "enabled": true})
        }
        Transport::Http { url, token: true } => {
            let authorization = format!("Bearer {{env:{TOKEN}}}");
            json!({"type": "remote", "url": url, "enabled": true,
                   "headers": {"Authorization": authorization}})
        }
    }
}

fn codex_entry(transport: &Transport) -> Value {
    match transport {
        Transport::Stdio { program } => json!({"command": program, "args": ["mcp", "--stdio"]}),
        Transport::Http { url, token: false } => json!({"url": url}),
        Transport::Http { url, token: true } => json!({"url": url, "bearer_token_env_var": TOKEN}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: [Client; 4] = [
        Client::Claude,
        Client::Codex,
        Client::Opencode,
        Client::Cursor,
    ];

    #[test]
    fn write_keeps_other_settings() {
        let home = tempfile::tempdir().unwrap();
        let stdio = Transport::Stdio {
            program: "/bin/pixels".into(),
        };
        let http = Transport::Http {
            url: "http://127.0.0.1:1/mcp".into(),
            token: true,
        };
        for client in CLIENTS {
            let setup = Setup::for_client(client, &stdio, home.path());
            assert_eq!(setup.write().unwrap(), Written::Added, "{client:?}");
            let text = std::fs::read_to_string(&setup.file).unwrap();
            assert_eq!(text, setup.text());
            assert_eq!(setup.write().unwrap(), Written::Unchanged);
            let other = Setup::for_client(client, &http, home.path());
            assert!(matches!(other.write(), Err(Error::OtherEntry { .. })));
            assert_eq!(std::fs::read_to_string(&setup.file).unwrap(), text);

            let own = match client {
                Client::Codex => "model = \"x\" # mine\n",
                _ => "{\"theme\": \"dark\"}",
            };
            std::fs::write(&setup.file, own).unwrap();
            assert_eq!(other.write().unwrap(), Written::Added);
            let text = std::fs::read_to_string(&setup.file).unwrap();
            assert!(text.contains("theme") || text.starts_with(own), "{text}");
            assert!(
                text.contains(TOKEN) && text.contains("127.0.0.1:1"),
                "{text}"
            );

            std::fs::write(&setup.file, "{ // not = JSON").unwrap();
            assert!(matches!(other.write(), Err(Error::Unreadable { .. })));
        }
    }
}
