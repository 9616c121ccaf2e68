//! Runs the scripts of `guest/` inside a pixel, and reports failures.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::model::{Error, ExecRequest, Guest, Result, Subject, run_with_streams};

/// Exit codes of the scripts. For other exit codes, stderr explains the failure.
pub const INPUT_CUT_OFF: i32 = 95;
pub const NO_SUCH_PATH: i32 = 96;
/// The pixel has no tar, or does not support this transfer method.
pub const UNSUPPORTED: i32 = 97;
pub const NOT_A_DIRECTORY: i32 = 98;
pub const IS_A_DIRECTORY: i32 = 99;

/// The exit code and the error output of a script.
pub struct ScriptExit {
    pub status: i32,
    /// The first bytes of stderr, trimmed.
    pub stderr: String,
}

impl ScriptExit {
    /// Converts the failure of `operation` on `path` in the pixel to an error.
    pub fn into_error(self, path: &str, operation: &str) -> Error {
        match self.status {
            NO_SUCH_PATH => not_found(path),
            NOT_A_DIRECTORY => {
                Error::Invalid(format!("{path:?} in the pixel is not a directory").into())
            }
            UNSUPPORTED => Error::Unsupported {
                operation: operation.to_owned(),
                reason: "the pixel has no tar".into(),
            },
            status => Error::Guest {
                command: operation.to_owned(),
                status,
                stderr: self.stderr,
            },
        }
    }
}

pub fn not_found(path: &str) -> Error {
    Error::NotFound(Subject::Other(format!("{path:?} in the pixel")))
}

/// Returns a request that runs `script` as root with these arguments.
pub fn request(script: &str, args: &[&str]) -> ExecRequest {
    // The name of the script in error messages of the shell.
    let fixed = ["/bin/sh", "-c", script, "pixels-transfer"];
    ExecRequest::root(fixed.into_iter().chain(args.iter().copied()))
}

/// Runs a script with these streams until the script exits. Dropping the future
/// kills the script.
pub async fn run(
    guest: &dyn Guest,
    request: &ExecRequest,
    stdin: impl AsyncRead + Send + Unpin + 'static,
    stdout: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<ScriptExit> {
    let output = run_with_streams(guest, request, stdin, stdout).await?;
    let (status, stderr) = (output.status.0, String::from_utf8_lossy(&output.stderr));
    let stderr = stderr.trim().to_owned();
    Ok(ScriptExit { status, stderr })
}
