//! `pixels forward NAME PORT…`, in the process that carries it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::folder;
use crate::cli::{Context, exec};
use crate::forward::{self, Port, registry};
use crate::model::{Error, Name};

pub async fn run(
    context: &Context,
    name: &Name,
    ports: &[Port],
    detached: bool,
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let instance = context.unless_interrupted(backend.get(name)).await?;
    exec::ensure_running(&instance)?;
    crate::term::raise_open_files();
    let listening = forward::listen(ports).await?;
    let ports: Vec<Port> = listening.iter().map(|one| one.port).collect();
    let record = registry::Forward {
        name: name.to_string(),
        ports,
        pid: std::process::id(),
        background: detached,
    };
    let folder = folder()?;
    let doing = || format!("writing to {}", folder.display());
    let registration = registry::register(&folder, &record).map_err(|e| Error::io(doing(), e))?;
    if detached || context.ui.json() {
        context.ui.value(&record);
    } else {
        context.ui.text(&description(&record));
        context.ui.status("Ends with Ctrl-C.");
    }
    let told = Mutex::new(BTreeSet::new());
    let failed = |port: Port, why: &str| {
        // Once is enough: a browser tries again and again.
        let mut told = told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.insert((port.local, why.to_owned())) {
            context.ui.warn(&format!("port {}: {why}", port.local));
        }
    };
    let guest = backend.guest(name);
    let outcome = forward::serve(&*guest, context.cancel(), &listening, &failed).await;
    drop(listening);
    drop(registration);
    Ok(outcome?)
}

pub fn description(record: &registry::Forward) -> String {
    let lines = record.ports.iter().map(|port| {
        format!(
            "Forwarding 127.0.0.1:{} to port {} of {}\n",
            port.local, port.remote, record.name
        )
    });
    lines.collect()
}
