//! Environment variables whose values only processes of the same user in the
//! pixel can read.
//!
//! Servers pass the environment of a request in the arguments of a process, and
//! all users of a server can read these. The variables are therefore sent as
//! shell code to `guest/login-exec.sh`: before the input of the command, or with
//! a terminal, which would print its input, in a file.

use std::collections::BTreeMap;
use std::io::Cursor;

use tokio::io::{AsyncRead, AsyncReadExt, sink};

use crate::model::{
    Error, ExecRequest, Guest, Ids, Result, random_hex, run_with_streams, shell_quote,
};

/// A directory in memory that all users of the pixel can write to.
const DIR: &str = "/dev/shm";

pub(super) struct PrivateEnv {
    /// Shell code that exports the variables.
    pub code: String,
    /// The file to write before the command starts.
    file: Option<String>,
}

impl PrivateEnv {
    pub fn new(variables: &BTreeMap<String, String>, terminal: bool) -> Result<Self> {
        // `command`: the shell continues after an assignment to a readonly variable.
        let code: String = variables
            .iter()
            .map(|(name, value)| format!("command export {name}={}\n", shell_quote(value)))
            .collect();
        let file = match terminal && !code.is_empty() {
            true => {
                let random = random_hex(16).map_err(|e| Error::io("naming a file", e))?;
                Some(format!("{DIR}/pixels-{random}"))
            }
            false => None,
        };
        Ok(Self { code, file })
    }

    /// Returns the argument of `login-exec.sh` that describes the variables.
    pub fn argument(&self) -> String {
        match &self.file {
            Some(file) => file.clone(),
            None => self.code.matches('\n').count().to_string(),
        }
    }

    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Writes the file, if there is one. `login-exec.sh` deletes the file.
    pub async fn write_file(&self, guest: &dyn Guest, owner: Ids) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let script = "umask 077; set -C; cat >\"$1\"";
        let request = ExecRequest {
            owner,
            ..ExecRequest::root(["/bin/sh", "-c", script, "sh", file])
        };
        let code = Cursor::new(self.code.clone());
        let output = run_with_streams(guest, &request, code, sink()).await?;
        output.into_text("transfer of the variables").map(drop)
    }

    /// Returns the input of `login-exec.sh` for a command with the input `stdin`.
    pub fn input(
        self,
        stdin: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Box<dyn AsyncRead + Send + Unpin> {
        match self.file {
            None if !self.code.is_empty() => Box::new(Cursor::new(self.code).chain(stdin)),
            _ => stdin,
        }
    }
}
