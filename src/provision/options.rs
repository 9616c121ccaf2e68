//! The input of a plan, and conversions to formats of other programs.

use std::collections::BTreeMap;

/// The options of a plan.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// One line, authorized for the users root and pixel. If set, an SSH server
    /// is installed.
    pub public_key: Option<String>,
    /// DNS servers to use instead of those of the network.
    pub dns: Vec<String>,
    /// Environment variables for all processes.
    pub variables: BTreeMap<String, String>,
    /// PEM texts, each with one or more certificates.
    pub ca_certificates: Vec<String>,
    pub devtools: Option<Devtools>,
    /// A script that runs as the last step, with its `#!` line.
    pub script: Option<Vec<u8>>,
    pub sessions: Sessions,
}

#[derive(Debug, Clone)]
pub struct Devtools {
    pub installer_url: String,
    /// `NAME` or `NAME@VERSION`, in the syntax of mise.
    pub tools: Vec<String>,
}

/// The multiplexer to install for console sessions.
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

/// Returns the configuration file of mise.
pub(super) fn mise(tools: &[String]) -> String {
    let mut text = String::from("[tools]\n");
    for tool in tools {
        // An npm scope also starts with @, but follows a colon or a slash.
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

/// Splits a PEM text into certificates, because `update-ca-certificates`
/// ignores files with several certificates.
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
    fn mise_configuration_splits_names_and_versions() {
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
