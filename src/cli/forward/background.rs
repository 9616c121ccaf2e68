//! `pixels forward --background`: starts the background process.

use std::ffi::OsString;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::description;
use crate::cli::Context;
use crate::exit::ExitWith;
use crate::forward::registry::Forward;
use crate::model::{Error, Name};

/// Starts the background process and waits until its ports are open. If the
/// process exits earlier, prints its errors and exits with its exit code.
pub async fn run(context: &Context, name: &Name) -> anyhow::Result<()> {
    let failed = |e| Error::io("starting the background process", e);
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(background_args(std::env::args_os().skip(1)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C on this terminal must not end the background process.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let ready = async {
            let read = stdout.read_line(&mut line).await;
            read.map(drop).map_err(failed)
        };
        if let Err(error) = context.unless_interrupted(ready).await {
            let _ = child.start_kill();
            return Err(error.into());
        }
    }
    if let Ok(forward) = serde_json::from_str::<Forward>(&line) {
        let sentence = format!(
            "{}  Stop:  pixels forward stop {name}",
            description(&forward)
        );
        context.ui.done(&sentence, &forward);
        return Ok(());
    }
    // The background process has formatted its errors as this command would.
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut errors).await;
    }
    let status = child.wait().await.map_err(failed)?;
    context.ui.relay(&errors);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(ExitWith(code.unwrap_or(crate::exit::FAILURE)).into())
}

/// This process's arguments, with `--detached` for `--background`.
fn background_args(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = args
        .filter_map(|arg| match arg.to_str() {
            Some("--background" | "-b") => None,
            // `-b` may be combined with other short flags.
            Some(text) if text.starts_with('-') && !text.starts_with("--") => {
                Some(text.replacen('b', "", 1).into())
            }
            _ => Some(arg),
        })
        .filter(|arg| arg != "-")
        .collect();
    all.push("--detached".into());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_args_replace_only_the_flag() {
        let args = ["-vb", "forward", "-b", "box", "--background", "8080:80"];
        let all = background_args(args.iter().map(OsString::from));
        assert_eq!(all, ["-v", "forward", "box", "8080:80", "--detached"]);
    }
}
