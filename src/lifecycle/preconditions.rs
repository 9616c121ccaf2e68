//! Checks of a pixel before a command or a transfer uses it.

use crate::model::{Error, Instance, Result, Status, Subject};

/// Fails with [`Error::WrongState`] unless the pixel is running, and as
/// [`ensure_unprivileged`] does.
pub fn ensure_running(instance: &Instance) -> Result<()> {
    ensure_unprivileged(instance)?;
    match instance.status {
        Status::Running => Ok(()),
        other => Err(Error::WrongState {
            subject: Subject::pixel(&instance.name),
            state: other.as_str().to_lowercase(),
        }),
    }
}

/// Fails with [`Error::Unsupported`] for a privileged pixel: its root is root on
/// the server, so no command or file of an agent may get into it.
pub fn ensure_unprivileged(instance: &Instance) -> Result<()> {
    if instance.privileged {
        return Err(Error::Unsupported {
            operation: format!("work in {}", Subject::pixel(&instance.name)),
            reason: "it is privileged: root in it is root on the server".into(),
        });
    }
    Ok(())
}
