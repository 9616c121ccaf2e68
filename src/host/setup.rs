//! Carries a plan out: the first step, a new look at the host, the next.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Serialize;

use super::command;
use super::daemon;
use super::error::Error;
use super::facts::{HostFacts, Reachability, ServerState};
use super::image;
use super::plan::{Action, ImageState, Plan, Step, StepId, asks_image_server, image_state, plan};
use super::read_file::read_or_empty;
use super::{Options, image_server, incus_facts, probe};
use crate::backend::incus::Client;
use crate::file_lock::{self, FileLock, LockMode};

/// What happens while a host is prepared.
#[derive(Debug, Clone)]
pub enum Event {
    /// Another `pixels setup` holds this lock; we wait for it.
    Waiting(PathBuf),
    /// What is going to be done, once, at the beginning. What a step finds
    /// may still change those behind it.
    Planned(Plan),
    Started(Box<Step>),
    /// A line a step's command has written.
    Output(String),
    Finished {
        id: StepId,
        took: Duration,
    },
    /// Something the user should know; each is told once.
    Warning(String),
}

/// What has been done. Empty `done`: nothing had to be.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub done: Vec<Step>,
    pub warnings: Vec<String>,
    /// Where the image of a new pixel comes from now.
    pub image: ImageState,
}

/// Gathers everything [`plan`] decides from. Changes nothing.
pub async fn inspect(options: &Options) -> Result<HostFacts, Error> {
    Inspector::new(options)?.look().await
}

/// Prepares the host step by step. Two at once: the second waits, and finds
/// nothing left to do.
///
/// Dropping the future stops a step that is under way, except an installation
/// of packages, which runs on to its end by itself. What was done stays, and
/// the next call goes on from there. A step that cannot be done from here is
/// [`Error::Blocked`], after those before it were done.
pub async fn setup(
    options: &Options,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<Report, Error> {
    let _lock = alone(on_event).await?;
    let mut inspector = Inspector::new(options)?;
    let mut done: Vec<Step> = Vec::new();
    let mut warnings: Vec<String> = Vec::new();
    let mut without_lxcfs = false;
    loop {
        let facts = inspector.look().await?;
        let mut plan = plan(&facts, options);
        plan.steps
            .retain(|step| !(without_lxcfs && step.id == StepId::Lxcfs));
        for warning in &plan.warnings {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
                on_event(Event::Warning(warning.clone()));
            }
        }
        let next = plan.steps.first().cloned();
        if done.is_empty() {
            on_event(Event::Planned(plan));
        }
        let Some(step) = next else {
            return Ok(Report {
                done,
                warnings,
                image: image_state(&facts, options),
            });
        };
        if done.iter().any(|earlier| earlier.id == step.id) {
            return Err(Error::Ineffective { step: step.title });
        }
        on_event(Event::Started(Box::new(step.clone())));
        let begun = Instant::now();
        let mut on_line = |line: &str| on_event(Event::Output(line.to_owned()));
        match execute(&step, &inspector.client, &mut on_line).await {
            // Containers run without it, and see the host's figures.
            Err(error @ Error::Daemon { .. }) if step.id == StepId::Lxcfs => {
                without_lxcfs = true;
                for line in error.output() {
                    on_line(line);
                }
                let warning = format!("{error}: containers will see the host's CPUs and memory");
                warnings.push(warning.clone());
                on_event(Event::Warning(warning));
                continue;
            }
            outcome => outcome?,
        }
        on_event(Event::Finished {
            id: step.id,
            took: begun.elapsed(),
        });
        done.push(step);
    }
}

/// One preparation of a host at a time.
async fn alone(on_event: &mut (dyn FnMut(Event) + Send)) -> Result<FileLock, Error> {
    let failed = |path: &Path, error| Error::file("cannot lock", path, error);
    let folder = file_lock::folder().map_err(|e| failed(Path::new("the locks' folder"), e))?;
    let path = folder.join("setup.lock");
    let waiting = || on_event(Event::Waiting(path.clone()));
    FileLock::wait(&path, LockMode::Exclusive, waiting)
        .await
        .map_err(|error| failed(&path, error))
}

/// Looks at the host as often as needed, and at the image server once.
pub(super) struct Inspector<'a> {
    options: &'a Options,
    pub client: Client,
    image_server: Option<Reachability>,
}

impl<'a> Inspector<'a> {
    pub fn new(options: &'a Options) -> Result<Self, Error> {
        Ok(Self {
            options,
            client: options.client()?,
            image_server: None,
        })
    }

    pub async fn look(&mut self) -> Result<HostFacts, Error> {
        let incus_dir = self.options.incus_dir();
        let local = match incus_dir {
            Some(dir) => Some(probe::local(dir).await?),
            None => None,
        };
        let server = incus_facts::probe(&self.client, incus_dir.is_none()).await?;
        let mut facts = HostFacts {
            local,
            server,
            image_server: Reachability::NotAsked,
        };
        if asks_image_server(&facts, self.options) {
            let reach = match self.image_server.take() {
                Some(known) => known,
                None => image_server::image_server(&self.options.image_server).await?,
            };
            facts.image_server = self.image_server.insert(reach).clone();
        }
        tracing::debug!(?facts, "looked at the host");
        Ok(facts)
    }
}

async fn execute(
    step: &Step,
    client: &Client,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    match &step.action {
        Action::NewFile { path, content } => new_file(path, content),
        Action::AppendLine { path, line } => append(path, line),
        Action::Run { commands } => {
            for line in commands {
                run(step, line, on_line).await?;
            }
            Ok(())
        }
        Action::Background { command, log } if step.id == StepId::Lxcfs => {
            daemon::start_lxcfs(&step.title, command, log).await
        }
        Action::Background { command, log } => {
            daemon::start(&step.title, client, command, log).await
        }
        Action::AwaitDaemon { pid } => daemon::wait(&step.title, client, *pid).await,
        Action::Request { method, path, body } => {
            let method = Method::from_bytes(method.as_bytes()).map_err(|e| Error::Io {
                doing: step.title.clone(),
                source: io::Error::other(e),
            })?;
            client
                .send(method, path, body)
                .await
                .map_err(|source| Error::Server {
                    doing: step.title.clone(),
                    source,
                })
        }
        Action::BuildImage { recipe, work_dir } => {
            image::build(client, recipe, work_dir, on_line).await
        }
        Action::Blocked { missing, fix } => Err(Error::Blocked {
            step: step.title.clone(),
            missing: missing.clone(),
            fix: fix.clone(),
        }),
    }
}

async fn run(
    step: &Step,
    line: &command::CommandLine,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    let outcome = command::run(line, on_line)
        .await
        .map_err(|source| Error::Io {
            doing: format!("{}: cannot run `{line}`", step.title),
            source,
        })?;
    if outcome.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        step: step.title.clone(),
        command: line.to_string(),
        status: outcome.status.code(),
        output: outcome.tail,
    })
}

/// Appears whole or not at all, and replaces nothing.
fn new_file(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |source: io::Error| Error::file("cannot write", path, source);
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))
        .map_err(failed)?;
    file.persist_noclobber(path)
        .map_err(|e| failed(e.error))
        .map(drop)
}

fn append(path: &Path, line: &str) -> Result<(), Error> {
    let failed = |source: io::Error| Error::file("cannot write", path, source);
    let before = read_or_empty(path)?;
    let break_first = !before.is_empty() && !before.ends_with('\n');
    let text = format!("{}{line}\n", if break_first { "\n" } else { "" });
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

impl HostFacts {
    /// The daemon answers and lets us.
    pub fn is_reached(&self) -> bool {
        matches!(self.server, ServerState::Answers(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sources");
        new_file(&path, "one\n").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert!(new_file(&path, "two\n").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_stands_alone_whatever_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subuid");
        append(&path, "root:1:1").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "root:1:1\n");
        std::fs::write(&path, "me:1:1").unwrap();
        append(&path, "root:2:2").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "me:1:1\nroot:2:2\n"
        );
    }
}
