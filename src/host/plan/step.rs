//! The steps of a plan, and their display in a dry run.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::recipe::Recipe;
use crate::host::command::CommandLine;
use crate::host::kernel_limits::{Setting, file_text};

/// The missing steps, in the order of execution. Empty if the host is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Limitations of the host that no step can remove.
    pub warnings: Vec<String>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The first step that is not possible on this host or for this user.
    pub fn blocked(&self) -> Option<&Step> {
        let blocked = |step: &&Step| matches!(step.action, Action::Blocked { .. });
        self.steps.iter().find(blocked)
    }

    pub(super) fn add(
        &mut self,
        id: StepId,
        title: impl Into<String>,
        reason: impl Into<String>,
        action: Action,
    ) {
        self.steps.push(Step::new(id, title, reason, action));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub id: StepId,
    /// Description of the step: a phrase that reads after "to" and "cannot".
    pub title: String,
    pub reason: String,
    pub action: Action,
}

impl Step {
    pub(super) fn new(
        id: StepId,
        title: impl Into<String>,
        reason: impl Into<String>,
        action: Action,
    ) -> Self {
        Self {
            id,
            title: title.into(),
            reason: reason.into(),
            action,
        }
    }
}

/// The subject of a step. A plan contains each subject at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepId {
    Privilege,
    Backports,
    Repair,
    Packages,
    Subuid,
    Subgid,
    Limits,
    Lxcfs,
    Daemon,
    Access,
    Pool,
    Network,
    Image,
}

/// Displays the id as in JSON.
impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// Creates a file. Fails if the file exists.
    NewFile { path: PathBuf, content: String },
    /// Appends a line to a file. Creates the file if it is missing.
    AppendLine { path: PathBuf, line: String },
    /// Raises kernel settings that are lower, now and at every boot.
    RaiseLimits {
        path: PathBuf,
        settings: Vec<Setting>,
    },
    /// Runs commands one after another.
    Run { commands: Vec<CommandLine> },
    /// Starts a process that keeps running after pixels exits, with its output
    /// in `log`.
    Background { command: CommandLine, log: PathBuf },
    /// Waits until the running daemon with this process id is ready.
    AwaitDaemon { pid: u32 },
    /// Sends a request to the Incus API.
    Request {
        method: &'static str,
        path: String,
        body: serde_json::Value,
    },
    /// Builds an image and imports it.
    BuildImage { recipe: Recipe, work_dir: PathBuf },
    /// Not possible on this host or for this user.
    Blocked { missing: String, fix: String },
}

impl Action {
    pub(super) fn blocked(missing: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Blocked {
            missing: missing.into(),
            fix: fix.into(),
        }
    }

    pub(super) fn needs_root(&self) -> bool {
        match self {
            Self::NewFile { .. }
            | Self::AppendLine { .. }
            | Self::RaiseLimits { .. }
            | Self::Run { .. }
            | Self::Background { .. }
            | Self::BuildImage { .. } => true,
            Self::AwaitDaemon { .. } | Self::Request { .. } | Self::Blocked { .. } => false,
        }
    }

    /// Returns the exact changes of the action, line by line.
    pub fn preview(&self) -> Vec<String> {
        match self {
            Self::NewFile { path, content } => preview_file(path, content),
            Self::RaiseLimits { path, settings } => {
                let mut lines = preview_file(path, &file_text(settings));
                lines.push("set each value that is lower now".into());
                lines
            }
            Self::AppendLine { path, line } => {
                vec![format!("echo {line} >>{}", path.display())]
            }
            Self::Run { commands } => commands.iter().map(CommandLine::to_string).collect(),
            Self::Background { command, log } => {
                vec![format!("{command} </dev/null >>{} 2>&1 &", log.display())]
            }
            Self::AwaitDaemon { pid } => vec![format!("wait until process {pid} is ready")],
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

fn preview_file(path: &Path, content: &str) -> Vec<String> {
    let mut lines = vec![format!("write {}:", path.display())];
    lines.extend(content.lines().map(|line| format!("  {line}")));
    lines
}
