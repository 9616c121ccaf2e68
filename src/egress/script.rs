//! Results of the setup scripts in gateways and pixels.

use crate::model::{Error, Output, Result};

/// Exit status of a setup script if the image lacks nft or dnsmasq and has no
/// apt-get to install them.
const CANNOT_INSTALL: i32 = 90;
const STDERR_LINES: usize = 5;

/// Whether the image cannot install the packages that enforcement needs.
pub fn cannot_install(output: &Output) -> bool {
    output.status.0 == CANNOT_INSTALL
}

/// Fails with `Error::Unsupported` if the packages cannot be installed, and
/// with `Error::Guest` on other failures. Both errors contain the last lines of
/// stderr.
pub fn check(command: &str, unsupported: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.trim().lines().collect();
    let stderr = lines[lines.len().saturating_sub(STDERR_LINES)..].join("\n");
    Err(if cannot_install(output) {
        Error::Unsupported {
            operation: unsupported.to_owned(),
            reason: stderr.into(),
        }
    } else {
        Error::Guest {
            command: command.to_owned(),
            status: output.status.0,
            stderr,
        }
    })
}
