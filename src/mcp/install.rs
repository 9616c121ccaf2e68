//! How clients are told of the server: what to put into which of their files.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::state::replace;

const NAME: &str = "pixels";
const TOKEN: &str = "PIXELS_MCP_AUTH_TOKEN";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    Claude,
    Codex,
    Opencode,
    Cursor,
}

/// How a client gets to the server.
#[derive(Debug, Clone)]
pub enum Transport {
    /// It starts this program, which finds or becomes the server.
    Stdio { program: String },
    /// A server that runs already. `token`: one is asked for, and the client
    /// takes it from its environment.
    Http { url: String, token: bool },
}

/// Of one client: the file, and what is to be in it.
#[derive(Debug)]
pub struct Setup {
    pub file: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// A value under a table of the document.
    Json { table: &'static str, value: Value },
    /// A table of its own.
    Toml(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Added,
    /// As it should be already.
    Unchanged,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} cannot be read ({reason}): add this by hand", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} has another server called {NAME} already: change it by hand", path.display())]
    Taken { path: PathBuf },
}

impl Setup {
    pub fn for_client(client: Client, way: &Transport, home: &Path) -> Self {
        let (file, content) = match client {
            Client::Claude => (
                ".claude.json",
                servers(way, &format!("Bearer ${{{TOKEN}}}")),
            ),
            Client::Cursor => (
                ".cursor/mcp.json",
                servers(way, &format!("Bearer ${{env:{TOKEN}}}")),
            ),
            Client::Opencode => (".config/opencode/opencode.json", opencode(way)),
            Client::Codex => (".codex/config.toml", codex(way)),
        };
        Self {
            file: home.join(file),
            content,
        }
    }

    /// What a person would put into the file.
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

    /// Puts it into the file and leaves everything else in there as it means.
    pub fn write(&self) -> Result<Written, Error> {
        let io = |source| Error::Io {
            path: self.file.clone(),
            source,
        };
        let (old, mode) = match std::fs::read_to_string(&self.file) {
            Ok(text) => (
                text,
                Some(std::fs::metadata(&self.file).map_err(io)?.permissions()),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), None),
            Err(error) => return Err(io(error)),
        };
        let new = match &self.content {
            Content::Json { table, value } => self.with_json(&old, table, value)?,
            Content::Toml(text) => self.with_toml(&old, text)?,
        };
        let Some(new) = new else {
            return Ok(Written::Unchanged);
        };
        // A link to the file stays one.
        let file = match std::fs::canonicalize(&self.file) {
            Ok(file) => file,
            Err(_) => self.file.clone(),
        };
        replace(&file, new.as_bytes()).map_err(io)?;
        if let Some(mode) = mode {
            std::fs::set_permissions(&file, mode).map_err(io)?;
        }
        Ok(Written::Added)
    }

    /// `None` when it is in there.
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
            .ok_or_else(|| unreadable("it is no JSON object".into()))?;
        let servers = root
            .entry(table)
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .ok_or_else(|| unreadable(format!("{table} is no JSON object")))?;
        match servers.get(NAME) {
            Some(there) if there == value => return Ok(None),
            Some(_) => return Err(self.name_taken()),
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
        let wanted: toml::Table = toml::from_str(text).map_err(unreadable)?;
        let server = |table: &toml::Table| table.get("mcp_servers")?.get(NAME).cloned();
        match server(&document) {
            Some(there) if Some(&there) == server(&wanted).as_ref() => return Ok(None),
            Some(_) => return Err(self.name_taken()),
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

    fn name_taken(&self) -> Error {
        Error::Taken {
            path: self.file.clone(),
        }
    }
}

fn servers(way: &Transport, authorization: &str) -> Content {
    let value = match way {
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

fn opencode(way: &Transport) -> Content {
    let value = match way {
        Transport::Stdio { program } => {
            json!({"type": "local", "command": [program, "mcp", "--stdio"], "enabled": true})
        }
        Transport::Http { url, token } => {
            let mut value = json!({"type": "remote", "url": url, "enabled": true});
            if *token {
                value["headers"] = json!({"Authorization": format!("Bearer {{env:{TOKEN}}}")});
            }
            value
        }
    };
    Content::Json {
        table: "mcp",
        value,
    }
}

fn codex(way: &Transport) -> Content {
    let mut server = toml::Table::new();
    match way {
        Transport::Stdio { program } => {
            server.insert("command".into(), program.clone().into());
            let args = ["mcp", "--stdio"].map(toml::Value::from).to_vec();
            server.insert("args".into(), args.into());
        }
        Transport::Http { url, token } => {
            server.insert("url".into(), url.clone().into());
            if *token {
                server.insert("bearer_token_env_var".into(), TOKEN.into());
            }
        }
    }
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
    fn a_file_keeps_what_else_is_in_it() {
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
            assert!(matches!(other.write(), Err(Error::Taken { .. })));
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
