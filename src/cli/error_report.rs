//! Prints the error of a failed command as text or JSON: the message with its
//! causes, the leftovers on the server, and one hint.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{Error, STOPPED, Subject};
use crate::ui::Ui;
use crate::{base, exit, host, lifecycle};

#[derive(Serialize)]
struct Body<'a> {
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    leftovers: &'a [String],
    exit_code: u8,
}

/// Returns the error and its causes in one line, without repetitions.
pub fn message(error: &anyhow::Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Wrappers often repeat their cause at the end.
        if !messages.last().is_some_and(|last| last.ends_with(&text)) {
            messages.push(text);
        }
    }
    messages.join(": ")
}

/// Prints an error to stderr: as text, or in JSON mode as one JSON document.
/// `exit_code` is the exit code of the process.
pub fn report(ui: &Ui, error: &anyhow::Error, exit_code: u8) {
    let (_, kind) = exit::classify(error);
    let message = message(error);
    let leftovers = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<lifecycle::Error>())
        .map_or(&[][..], |error| &error.leftovers);
    let hint = hint(error);
    if ui.json() {
        let body = Body {
            kind,
            message: &message,
            hint,
            leftovers,
            exit_code,
        };
        ui.error_document(&BTreeMap::from([("error", body)]));
        return;
    }
    ui.error(&message);
    let host_error = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<host::Error>());
    for line in host_error.map_or(&[][..], host::Error::output) {
        ui.error_detail(line);
    }
    for leftover in leftovers {
        ui.error_detail(&format!("left behind: {leftover}"));
    }
    if let Some(hint) = hint {
        ui.hint(&hint);
    }
}

/// Returns one imperative sentence with a command, chosen by the error type.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<host::Error>() {
            return error.fix().map(str::to_owned);
        }
        if let Some(base::Error::NameTaken { pixel, .. }) = cause.downcast_ref() {
            return Some(format!(
                "to use the pixel as the base, run: pixels checkpoint create {pixel}; \
                 to build the base, run: pixels destroy {pixel}"
            ));
        }
        if let Some(error) = cause.downcast_ref::<lifecycle::Error>() {
            return backend_hint(&error.source);
        }
        cause.downcast_ref::<Error>().and_then(backend_hint)
    })
}

fn backend_hint(error: &Error) -> Option<String> {
    if let Some(hint) = error.hint() {
        return Some(hint.to_owned());
    }
    Some(match error {
        Error::NotFound(Subject::Pixel(_)) => "to see all pixels, run: pixels list".into(),
        Error::NotFound(Subject::Checkpoint { pixel, .. }) => {
            format!("to see its checkpoints, run: pixels checkpoint list {pixel}")
        }
        Error::NotFound(Subject::Image(_)) => {
            "choose an image of https://images.linuxcontainers.org with --image or defaults.image"
                .into()
        }
        Error::NotFound(Subject::Pool(_) | Subject::Network(_)) => {
            "run: pixels doctor, then: pixels setup".into()
        }
        Error::AlreadyExists(Subject::Pixel(name)) => {
            format!("choose another name, or run: pixels destroy {name}")
        }
        Error::AlreadyExists(Subject::Checkpoint { pixel, label }) => {
            format!("choose another --label, or run: pixels checkpoint delete {pixel} {label}")
        }
        Error::WrongState {
            subject: Subject::Pixel(name),
            state,
        } if state == STOPPED => format!("run: pixels start {name}"),
        Error::WrongState {
            subject: Subject::Gateway(_),
            ..
        } => "run: pixels network gateway rebuild".into(),
        Error::WrongState {
            subject: Subject::Disk(path),
            ..
        } => format!("run on the server as root: rm -r {path}, then destroy the pixel again"),
        _ => return None,
    })
}
