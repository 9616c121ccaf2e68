//! `pixels forward --background`: starts the process that carries it, and
//! returns when its ports are open.

use std::ffi::OsString;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::run::description;
use crate::cli::Context;
use crate::exit::ExitWith;
use crate::forward::registry::Forward;
use crate::model::{Error, Name};

pub async fn run(context: &Context, name: &Name) -> anyhow::Result<()> {
    let doing = |e| Error::io("starting the background process", e);
    let mut child = Command::new(std::env::current_exe().map_err(doing)?)
        .args(arguments(std::env::args_os().skip(1)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Keys pressed on our terminal are not meant for it.
        .process_group(0)
        .spawn()
        .map_err(doing)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let ready = async {
            let read = stdout.read_line(&mut line).await;
            read.map(drop).map_err(doing)
        };
        if let Err(error) = context.unless_interrupted(ready).await {
            let _ = child.start_kill();
            return Err(error.into());
        }
    }
    if let Ok(record) = serde_json::from_str::<Forward>(&line) {
        let more = format!("  Stop:  pixels forward stop {name}");
        let sentence = format!("{}{more}", description(&record));
        context.ui.done(&sentence, &record);
        return Ok(());
    }
    // It has said what is wrong, in the form that was asked for.
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut said).await;
    }
    let status = child.wait().await.map_err(doing)?;
    context.ui.relay(&said);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(ExitWith(code.unwrap_or(crate::exit::FAILURE)).into())
}

/// Our own arguments, for the process that does not go to the background
/// again.
fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = given
        .filter_map(|word| match word.to_str() {
            Some("--background" | "-b") => None,
            // -b among other short flags.
            Some(text) if text.starts_with('-') && !text.starts_with("--") => {
                Some(text.replacen('b', "", 1).into())
            }
            _ => Some(word),
        })
        .filter(|word| word != "-")
        .collect();
    all.push("--detached".into());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flag_is_taken_away() {
        let given = ["-vb", "forward", "-b", "box", "--background", "8080:80"];
        let all = arguments(given.iter().map(OsString::from));
        assert_eq!(all, ["-v", "forward", "box", "8080:80", "--detached"]);
    }
}
