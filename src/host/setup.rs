//! Runs a plan step by step, and inspects the host after each step.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Serialize;
use tempfile::NamedTempFile;

use super::command;
use super::daemon;
use super::error::Error;
use super::facts::{HostFacts, Reachability};
use super::image;
use super::kernel_limits;
use super::plan::{Action, ImageState, Plan, Step, StepId, image_state, needs_image_server, plan};
use super::read_file::read_or_empty;
use super::{Options, image_server, incus_facts, probe, simple_quotas};
use crate::backend::incus::Client;
use crate::file_lock::{self, FileLock, LockMode};

/// Progress of [`setup`].
#[derive(Debug, Clone)]
pub enum Event {
    /// Waiting for the lock at this path, held by another `pixels setup`.
    Waiting(PathBuf),
    /// The whole plan, sent once at the start. The result of a step may change
    /// later steps.
    Planned(Plan),
    Started(Box<Step>),
    /// A line of command output.
    Output(String),
    Finished {
        id: StepId,
        took: Duration,
    },
    /// A limitation of the host, sent once.
    Warning(String),
}

/// The steps that setup has run. Empty if the host was ready.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub done: Vec<Step>,
    pub warnings: Vec<String>,
    /// The source of the image of new pixels.
    pub image: ImageState,
}

/// Collects the facts for [`plan`]. Changes nothing.
pub async fn inspect(options: &Options) -> Result<HostFacts, Error> {
    Inspector::new(options)?.inspect().await
}

/// Sets up the host step by step. If another call is running, waits for that
/// call.
///
/// If the future is dropped, the current step stops, except a package
/// installation, which continues in the background. Completed steps are kept,
/// and the next call continues after them. A step that is not possible fails
/// with [`Error::Blocked`] after all earlier steps.
pub async fn setup(
    options: &Options,
    on_event: &mut (dyn FnMut(Event) + Send),
) -> Result<Report, Error> {
    let _lock = lock_setup(on_event).await?;
    let mut inspector = Inspector::new(options)?;
    let mut done: Vec<Step> = Vec::new();
    let mut warnings: Vec<String> = Vec::new();
    let mut skipped: Vec<StepId> = Vec::new();
    loop {
        let facts = inspector.inspect().await?;
        let mut plan = plan(&facts, options);
        plan.steps.retain(|step| !skipped.contains(&step.id));
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
        let started = Instant::now();
        let mut on_line = |line: &str| on_event(Event::Output(line.to_owned()));
        match execute(&step, options, &inspector.client, &mut on_line).await {
            // Containers can run without lxcfs.
            Err(error @ Error::Daemon { .. }) if step.id == StepId::Lxcfs => {
                skipped.push(step.id);
                for line in error.output() {
                    on_line(line);
                }
                let warning = format!("{error}; containers will see the host's CPUs and memory");
                warnings.push(warning.clone());
                on_event(Event::Warning(warning));
                continue;
            }
            // Some containers and hardened kernels deny writes by root.
            Err(error) if step.id == StepId::Limits => {
                skipped.push(step.id);
                let warning = format!("{error}; kernel limits may be low, now or after a reboot");
                warnings.push(warning.clone());
                on_event(Event::Warning(warning));
                continue;
            }
            outcome => outcome?,
        }
        on_event(Event::Finished {
            id: step.id,
            took: started.elapsed(),
        });
        done.push(step);
    }
}

async fn lock_setup(on_event: &mut (dyn FnMut(Event) + Send)) -> Result<FileLock, Error> {
    let failed = |path: &Path, error| Error::file("cannot lock", path, error);
    let folder = file_lock::lock_dir().map_err(|e| failed(Path::new("the lock directory"), e))?;
    let path = folder.join("setup.lock");
    let waiting = || on_event(Event::Waiting(path.clone()));
    FileLock::acquire(&path, LockMode::Exclusive, waiting)
        .await
        .map_err(|error| failed(&path, error))
}

/// Collects facts. Checks the image server at most once.
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

    pub async fn inspect(&mut self) -> Result<HostFacts, Error> {
        let incus_dir = self.options.incus_dir();
        let local = match incus_dir {
            Some(dir) => Some(probe::local(dir).await?),
            None => None,
        };
        let server = incus_facts::read(&self.client, incus_dir.is_none()).await?;
        let mut facts = HostFacts {
            local,
            server,
            image_server: Reachability::NotChecked,
        };
        if needs_image_server(&facts, self.options) {
            let reachability = match self.image_server.take() {
                Some(known) => known,
                None => image_server::check_reachable(&self.options.image_server).await?,
            };
            facts.image_server = self.image_server.insert(reachability).clone();
        }
        tracing::debug!(?facts, "inspected the host");
        Ok(facts)
    }
}

async fn execute(
    step: &Step,
    options: &Options,
    client: &Client,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    match &step.action {
        Action::NewFile { path, content } => create_file(path, content),
        Action::AppendLine { path, line } => append_line(path, line),
        Action::RaiseLimits { path, settings } => {
            let raised = kernel_limits::raise(settings);
            replace_file(path, &kernel_limits::file_text(settings)).and(raised)
        }
        Action::Run { commands } => {
            for line in commands {
                command::run_checked(&step.title, line, on_line).await?;
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
            let failed = format!("cannot {}", step.title);
            let method = Method::from_bytes(method.as_bytes())
                .map_err(|e| Error::io(&failed, io::Error::other(e)))?;
            client
                .send(method, path, body)
                .await
                .map_err(|error| Error::server(failed, error))?;
            match (options.incus_dir(), body["name"].as_str()) {
                (Some(dir), Some(pool)) if step.id == StepId::Pool && body["driver"] == "btrfs" => {
                    simple_quotas::enable(client, dir, pool).await
                }
                _ => Ok(()),
            }
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

/// Creates a file atomically. Fails if the file exists.
fn create_file(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |source: io::Error| Error::file("cannot write", path, source);
    write_temporary(path, content)
        .and_then(|file| Ok(file.persist_noclobber(path)?))
        .map_err(failed)
        .map(drop)
}

/// Creates or replaces a file atomically. Creates its directory.
fn replace_file(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |source: io::Error| Error::file("cannot write", path, source);
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(failed)?;
    write_temporary(path, content)
        .and_then(|file| Ok(file.persist(path)?))
        .map_err(failed)
        .map(drop)
}

/// Writes a temporary file beside `path`, readable by all users.
fn write_temporary(path: &Path, content: &str) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    file.write_all(content.as_bytes())?;
    let permissions = Permissions::from_mode(0o644);
    file.as_file().set_permissions(permissions)?;
    Ok(file)
}

/// Appends a line to a file. Adds a missing line break at the end of the file
/// first.
fn append_line(path: &Path, line: &str) -> Result<(), Error> {
    let failed = |source: io::Error| Error::file("cannot write", path, source);
    let before = read_or_empty(path)?;
    let needs_break = !before.is_empty() && !before.ends_with('\n');
    let text = format!("{}{line}\n", if needs_break { "\n" } else { "" });
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_file_replaces_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sources");
        create_file(&path, "one\n").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert!(create_file(&path, "two\n").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn replace_file_creates_its_directory_and_replaces_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sysctl.d/a.conf");
        for content in ["one\n", "two\n"] {
            replace_file(&path, content).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(entries.count(), 1);
    }

    #[test]
    fn append_line_starts_a_new_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subuid");
        append_line(&path, "root:1:1").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "root:1:1\n");
        std::fs::write(&path, "me:1:1").unwrap();
        append_line(&path, "root:2:2").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "me:1:1\nroot:2:2\n"
        );
    }
}
