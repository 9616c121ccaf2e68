//! The user of a command that starts before the record of the pixel is read.

use std::sync::OnceLock;

use super::{User, ensure_running};
use crate::model::{Error, Instance, Result};

/// The default user of most pixels. A command is prepared for this user while
/// the record of the pixel is read, because both take about the same time.
#[derive(Debug)]
pub struct AssumedUser {
    pub user: User,
    actual: OnceLock<User>,
}

impl AssumedUser {
    /// `provisioned`: whether the settings provision new pixels.
    pub fn new(provisioned: bool) -> Self {
        Self {
            user: User::expected(provisioned),
            actual: OnceLock::new(),
        }
    }

    /// Fails if the pixel is not running, and with [`Error::Cancelled`] if the
    /// pixel has another default user: see [`into_actual`](Self::into_actual).
    pub async fn verify(&self, instance: impl Future<Output = Result<Instance>>) -> Result<()> {
        let instance = instance.await?;
        ensure_running(&instance)?;
        let actual = User::default_for(&instance);
        if actual == self.user {
            return Ok(());
        }
        let _ = self.actual.set(actual);
        Err(Error::Cancelled)
    }

    /// Returns the pixel's default user if the assumption was wrong.
    pub fn into_actual(self) -> Option<User> {
        self.actual.into_inner()
    }
}
