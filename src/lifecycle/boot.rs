//! Waits for the boot of a pixel.

use crate::model::{ExecRequest, Guest, Result};

/// A stage of the boot process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootStage {
    /// The boot process no longer removes files in `/tmp`.
    Sysinit,
    /// All services have started, so the pixel obeys shutdown requests.
    Complete,
}

/// Waits until a running pixel has reached `stage`: at most 10 s for
/// [`BootStage::Sysinit`] and about 30 s for [`BootStage::Complete`]. A timeout
/// is not an error.
pub async fn wait_for_boot(guest: &dyn Guest, stage: BootStage) -> Result<()> {
    let script = include_str!("guest/wait-for-boot.sh");
    let stage = match stage {
        BootStage::Sysinit => "sysinit",
        BootStage::Complete => "complete",
    };
    let request = ExecRequest::root(["/bin/sh", "-c", script, "wait-for-boot", stage]);
    guest.output(&request).await.map(drop)
}
