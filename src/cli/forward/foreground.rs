//! `pixels forward NAME PORT…`: forwards ports until interrupted.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::{description, registry_dir};
use crate::cli::Context;
use crate::forward::{self, Port, registry};
use crate::model::{Error, Name, lock};

/// Forwards ports until interrupted. `detached` prints one JSON line for the
/// parent process after the ports are open.
pub async fn run(
    context: &Context,
    name: &Name,
    ports: &[Port],
    detached: bool,
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    context.get_running(name).await?;
    crate::term::raise_open_files();
    let listeners = forward::listen(ports).await?;
    let ports: Vec<Port> = listeners.iter().map(|listener| listener.port).collect();
    let record = registry::Forward {
        name: name.to_string(),
        ports,
        pid: std::process::id(),
        background: detached,
    };
    let dir = registry_dir()?;
    let registration = registry::register(&dir, &record)
        .map_err(|e| Error::io(format!("writing to {}", dir.display()), e))?;
    if detached || context.ui.json() {
        context.ui.value(&record);
    } else {
        context.ui.text(&description(&record));
        context.ui.status("Press Ctrl-C to stop.");
    }
    let warned = Mutex::new(BTreeSet::new());
    let on_error = |port: Port, error: &str| {
        // Warn once: a browser retries for a long time.
        let mut warned = lock(&warned);
        if warned.insert((port.local, error.to_owned())) {
            context.ui.warn(&format!("port {}: {error}", port.local));
        }
    };
    let guest = backend.guest(name);
    let outcome = forward::serve(&*guest, context.cancel(), &listeners, &on_error).await;
    drop(listeners);
    drop(registration);
    Ok(outcome?)
}
