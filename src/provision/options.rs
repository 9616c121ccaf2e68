//! What is asked of a new pixel, and how the programs in it are told.

use std::collections::BTreeMap;

/// What the user's settings ask of a new pixel.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// One line, for root and pixel; an SSH server is installed for it.
    pub public_key: Option<String>,
    pub dns: Vec<String>,
    /// For every process of the pixel.
    pub variables: BTreeMap<String, String>,
    /// PEM texts, each with one or more certificates.
    pub ca_certificates: Vec<String>,
    pub devtools: Option<Devtools>,
    /// The user's own script, with its `#!` line.
    pub script: Option<Vec<u8>>,
    pub sessions: Sessions,
}

#[derive(Debug, Clone)]
pub struct Devtools {
    pub installer_url: String,
    /// `NAME` or `NAME@VERSION`, as mise takes them.
    pub tools: Vec<String>,
}

/// What keeps console sessions.
#[derive(Debug, Clone, Default)]
pub enum Sessions {
    #[default]
    Tmux,
    Zmx {
        url: String,
        sha256: Option<String>,
    },
    None,
}

/// mise's own configuration file.
pub(super) fn mise(tools: &[String]) -> String {
    let mut text = String::from("[tools]\n");
    for tool in tools {
        // An npm scope begins with @ too: the last one counts, unless it is first.
        let (name, version) = match tool.rfind('@') {
            Some(at) if at > 0 && !tool[..at].ends_with([':', '/']) => {
                (&tool[..at], &tool[at + 1..])
            }
            _ => (tool.as_str(), "latest"),
        };
        text.push_str(&format!("{name:?} = {version:?}\n"));
    }
    text
}

/// The single certificates of a PEM text: the trust store's hashing passes
/// over files that hold several.
pub(super) fn certificates(pem: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    pem.split(BEGIN)
        .skip(1)
        .filter_map(|rest| rest.split_once(END))
        .map(|(body, _)| format!("{BEGIN}{body}{END}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_become_mise_configuration() {
        let tools = [
            "node@lts",
            "codex",
            "npm:@openai/codex",
            "npm:@openai/codex@1.2.3",
        ];
        assert_eq!(
            mise(&tools.map(str::to_owned)),
            "[tools]\n\"node\" = \"lts\"\n\"codex\" = \"latest\"\n\
             \"npm:@openai/codex\" = \"latest\"\n\"npm:@openai/codex\" = \"1.2.3\"\n"
        );
    }
}
