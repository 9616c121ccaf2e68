//! Configuration of MCP clients: which file, and the entry that adds this server.

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

/// How a client connects to the server.
#[derive(Debug, Clone)]
pub enum Transport {
    /// The client starts this program, which connects to the server of the user
    /// or starts it.
    Stdio { program: String },
    /// A running server. `token`: it requires a token, which the client reads
    /// from its environment.
    Http { url: String, token: bool },
}

/// The configuration file of a client and the entry for it.
#[derive(Debug)]
pub struct Setup {
    pub file: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The value of the key `pixels` in the object `table` of the document.
    Json { table: &'static str, value: Value },
    /// A TOML table with its header.
    Toml(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Added,
    /// The file has the entry already.
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
        let (file, content) = match client {
            Client::Claude => (
                ".claude.json",
                mcp_servers(transport, &format!("Bearer ${{{TOKEN}}}")),
            ),
            Client::Cursor => (
                ".cursor/mcp.json",
                mcp_servers(transport, &format!("Bearer ${{env:{TOKEN}}}")),
            ),
            Client::Opencode => (".config/opencode/opencode.json", opencode(transport)),
            Client::Codex => (".codex/config.toml", codex(transport)),
        };
        Self {
            file: home.join(file),
            content,
        }
    }

    /// Returns the text to add to the file by hand.
    pub fn text(&self) -> String {
        match &self.content {
            Content::Json { table, value } => {
                let document = json!({ *table: { NAME: value } });
                let text = serde_json::to_string_pretty(&document);
                format!("{}\n", text.unwrap_or_default())
            }
            Content::Toml(text) => text.clone(),
        }
    }

    /// Adds the entry to the file and keeps all other settings. Fails without
    /// changes if the file cannot be parsed or has a different entry.
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
        let new = match &self.content {
            Content::Json { table, value } => self.with_json(&old, table, value)?,
            Content::Toml(text) => self.with_toml(&old, text)?,
        };
        let Some(new) = new else {
            return Ok(Written::Unchanged);
        };
        let metadata = std::fs::metadata(&self.file);
        // Keeps a symbolic link at the path of the file.
        let file = std::fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
        replace_file(&file, new.as_bytes()).map_err(io)?;
        if let Ok(metadata) = metadata {
            std::fs::set_permissions(&file, metadata.permissions()).map_err(io)?;
        }
        Ok(Written::Added)
    }

    /// Returns `None` if the document has the entry already.
    fn with_json(&self, old: &str, table: &str, value: &Value) -> Result<Option<String>, Error> {
        let unreadable = |reason: String| Error::Unreadable {
            path: self.file.clone(),
            reason,
        };
        let mut document: Value = match old.trim() {
            "" => json!({}),
            text => serde_json::from_str(text).map_err(|e| unreadable(e.to_string()))?,
        };
        let root = document
            .as_object_mut()
            .ok_or_else(|| unreadable("not a JSON object".into()))?;
        let servers = root
            .entry(table)
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .ok_or_else(|| unreadable(format!("{table} is not a JSON object")))?;
        match servers.get(NAME) {
            Some(existing) if existing == value => return Ok(None),
            Some(_) => return Err(self.other_entry()),
            None => servers.insert(NAME.into(), value.clone()),
        };
        let text =
            serde_json::to_string_pretty(&document).map_err(|e| unreadable(e.to_string()))?;
        Ok(Some(format!("{text}\n")))
    }

    fn with_toml(&self, old: &str, text: &str) -> Result<Option<String>, Error> {
        let unreadable = |e: toml::de::Error| Error::Unreadable {
            path: self.file.clone(),
            reason: e.to_string(),
        };
        let document: toml::Table = toml::from_str(old).map_err(unreadable)?;
        let addition: toml::Table = toml::from_str(text).map_err(unreadable)?;
        let server = |table: &toml::Table| table.get("mcp_servers")?.get(NAME).cloned();
        match server(&document) {
            existing @ Some(_) if existing == server(&addition) => return Ok(None),
            Some(_) => return Err(self.other_entry()),
            None => {}
        }
        let gap = if old.trim().is_empty() { "" } else { "\n" };
        let end = if old.is_empty() || old.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        Ok(Some(format!("{old}{end}{gap}{text}")))
    }

    fn other_entry(&self) -> Error {
        Error::OtherEntry {
            path: self.file.clone(),
        }
    }
}

/// The `mcpServers` object that several clients share.
fn mcp_servers(transport: &Transport, authorization: &str) -> Content {
    let value = match transport {
        Transport::Stdio { program } => {
            json!({"type": "stdio", "command": program, "args": ["mcp", "--stdio"]})
        }
        Transport::Http { url, token: false } => json!({"type": "http", "url": url}),
        Transport::Http { url, token: true } => {
            json!({"type": "http", "url": url, "headers": {"Authorization": authorization}})
        }
    };
    Content::Json {
        table: "mcpServers",
        value,
    }
}

fn opencode(transport: &Transport) -> Content {
    let value = match transport {
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
    };
    Content::Json {
        table: "mcp",
        value,
    }
}

fn codex(transport: &Transport) -> Content {
    let server = match transport {
        Transport::Stdio { program } => json!({"command": program, "args": ["mcp", "--stdio"]}),
        Transport::Http { url, token: false } => json!({"url": url}),
        Transport::Http { url, token: true } => json!({"url": url, "bearer_token_env_var": TOKEN}),
    };
    let server = toml::to_string(&server).unwrap_or_default();
    Content::Toml(format!("[mcp_servers.{NAME}]\n{server}"))
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
