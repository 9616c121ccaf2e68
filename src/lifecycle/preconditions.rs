//! Checks on a pixel before a command or file transfer.

use crate::model::{Error, Instance, Result, Status, Subject};

/// Fails with [`Error::WrongState`] if the pixel is not running, and with the
/// error of [`ensure_unprivileged`].
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

/// Fails with [`Error::Unsupported`] for a privileged pixel: its root is root
/// on the server, so agents must not run commands or write files in it.
pub fn ensure_unprivileged(instance: &Instance) -> Result<()> {
    if instance.privileged {
        return Err(Error::Unsupported {
            operation: format!("work in {}", Subject::pixel(&instance.name)),
            reason: "it is privileged: root in it is root on the server".into(),
        });
    }
    Ok(())
}
