//! The steps a plan consists of, and how a dry run shows them.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::image::Recipe;
use crate::host::command::CommandLine;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What the user should know, and nothing is done about.
    pub warnings: Vec<String>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The first step that cannot be done from here.
    pub fn blocked(&self) -> Option<&Step> {
        let blocked = |step: &&Step| matches!(step.action, Action::Blocked { .. });
        self.steps.iter().find(blocked)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub id: StepId,
    /// What is done, as a phrase that reads after "to".
    pub title: String,
    pub reason: String,
    pub action: Action,
}

/// What a step is about. One plan has no two steps of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepId {
    Privilege,
    Backports,
    Repair,
    Packages,
    Subuid,
    Subgid,
    Inotify,
    Lxcfs,
    Daemon,
    Access,
    Pool,
    Network,
    Image,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privilege => "privilege",
            Self::Backports => "backports",
            Self::Repair => "repair",
            Self::Packages => "packages",
            Self::Subuid => "subuid",
            Self::Subgid => "subgid",
            Self::Inotify => "inotify",
            Self::Lxcfs => "lxcfs",
            Self::Daemon => "daemon",
            Self::Access => "access",
            Self::Pool => "pool",
            Self::Network => "network",
            Self::Image => "image",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// Writes a file that does not exist yet.
    NewFile { path: PathBuf, content: String },
    /// Adds a line to a file, which is made when missing.
    AppendLine { path: PathBuf, line: String },
    /// Runs commands one after the other.
    Run { commands: Vec<CommandLine> },
    /// Starts a process that stays after pixels has ended. Its output goes to
    /// `log`.
    Background { command: CommandLine, log: PathBuf },
    /// Waits for a daemon that somebody else has started.
    AwaitDaemon { pid: u32 },
    /// Asks the daemon.
    Request {
        method: &'static str,
        path: String,
        body: serde_json::Value,
    },
    /// Builds an image and imports it.
    BuildImage { recipe: Recipe, work_dir: PathBuf },
    /// Cannot be done from here.
    Blocked { missing: String, fix: String },
}

impl Action {
    pub(super) fn needs_root(&self) -> bool {
        match self {
            Self::NewFile { .. }
            | Self::AppendLine { .. }
            | Self::Run { .. }
            | Self::Background { .. }
            | Self::BuildImage { .. } => true,
            Self::AwaitDaemon { .. } | Self::Request { .. } | Self::Blocked { .. } => false,
        }
    }

    /// Exactly what would be done, one line each.
    pub fn preview(&self) -> Vec<String> {
        match self {
            Self::NewFile { path, content } => {
                let mut lines = vec![format!("write {}:", path.display())];
                lines.extend(content.lines().map(|line| format!("  {line}")));
                lines
            }
            Self::AppendLine { path, line } => {
                vec![format!("echo {line} >>{}", path.display())]
            }
            Self::Run { commands } => commands.iter().map(CommandLine::to_string).collect(),
            Self::Background { command, log } => {
                vec![format!("{command} </dev/null >>{} 2>&1 &", log.display())]
            }
            Self::AwaitDaemon { pid } => vec![format!("wait for process {pid} to answer")],
            Self::Request { method, path, body } => vec![format!("{method} {path} {body}")],
            Self::BuildImage { recipe, work_dir } => {
                let mut lines = vec![recipe.command(work_dir, &work_dir.join("OUT")).to_string()];
                lines.push("with these apt sources in the image:".into());
                lines.extend(recipe.sources.lines().map(|line| format!("  {line}")));
                lines.push(format!("import both files as {}", recipe.alias));
                lines
            }
            Self::Blocked { missing, fix } => vec![format!("not possible: {missing}"), fix.clone()],
        }
    }
}
