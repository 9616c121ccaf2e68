//! Failures for people and for programs: message, causes, hint, exit code.

use serde::Serialize;

use super::{Ui, paint, sanitize, stderr};
use crate::exit;
use crate::host;
use crate::lifecycle;
use crate::model::{Error, Subject};

#[derive(Serialize)]
struct Document<'a> {
    error: Body<'a>,
}

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

/// What happened and why, in a line.
pub fn message(error: &anyhow::Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // A cause that its wrapper has named already adds nothing.
        if !messages.last().is_some_and(|last| last.ends_with(&text)) {
            messages.push(text);
        }
    }
    messages.join(": ")
}

/// Shows a failure on stderr: text, or one JSON document in JSON mode.
/// `exit_code` is what the process will end with.
pub fn report(ui: &Ui, error: &anyhow::Error, exit_code: u8) {
    let (_, kind) = exit::classify(error);
    let message = message(error);
    let leftovers = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<lifecycle::Error>())
        .map_or(&[][..], |error| &error.leftovers);
    let hint = hint(error);
    if ui.json() {
        let document = Document {
            error: Body {
                kind,
                message: &message,
                hint,
                leftovers,
                exit_code,
            },
        };
        if let Ok(text) = serde_json::to_string(&document) {
            stderr(&format!("{text}\n"));
        }
        return;
    }
    stderr(&format!(
        "{} {}\n",
        paint("Error:", "31"),
        sanitize(&message)
    ));
    let host_error = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<host::Error>());
    for line in host_error.map_or(&[][..], host::Error::output) {
        stderr(&format!("  {}\n", sanitize(line)));
    }
    for leftover in leftovers {
        stderr(&format!("  left behind: {}\n", sanitize(leftover)));
    }
    if let Some(hint) = hint {
        stderr(&format!("{} {}\n", paint("hint:", "36"), sanitize(&hint)));
    }
}

/// The way out, where there is a known one.
fn hint(error: &anyhow::Error) -> Option<String> {
    let host = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<host::Error>());
    if let Some(fix) = host.and_then(host::Error::fix) {
        return Some(fix.to_owned());
    }
    let fault = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<lifecycle::Error>()
            .map(|error| &error.source)
            .or_else(|| cause.downcast_ref::<Error>())
    })?;
    Some(match fault {
        Error::NotFound(Subject::Pixel(_)) => {
            "pixels list shows what there is, pixels create NAME makes one".into()
        }
        Error::NotFound(Subject::Checkpoint { pixel, .. }) => {
            format!("pixels checkpoint list {pixel} shows what there is")
        }
        Error::NotFound(Subject::Image(_)) => {
            "name another with --image, or set defaults.image; images.linuxcontainers.org lists what there is".into()
        }
        Error::NotFound(Subject::Pool(_) | Subject::Network(_)) => {
            "pixels doctor says what this server lacks, pixels setup makes it".into()
        }
        Error::AlreadyExists(Subject::Pixel(name)) => {
            format!("choose another name, or remove it with: pixels destroy {name}")
        }
        Error::AlreadyExists(Subject::Checkpoint { pixel, label }) => format!(
            "choose another --label, or remove it with: pixels checkpoint delete {pixel} {label}"
        ),
        Error::WrongState {
            subject: Subject::Pixel(name),
            state,
        } if state == "stopped" => format!("start it with: pixels start {name}"),
        Error::WrongState {
            subject: Subject::Gateway(_),
            ..
        } => "pixels network gateway rebuild brings it back".into(),
        Error::WrongState {
            subject: Subject::Disk(place),
            ..
        } => format!("remove that folder on the server, as root, and destroy the pixel again: rm -r {place}"),
        Error::Unreachable { endpoint, .. } if endpoint.contains("image server") => {
            "pixels setup builds an image of its own where the image server cannot be reached".into()
        }
        Error::Unreachable { endpoint, .. } if endpoint.starts_with("Incus at /") => {
            "pixels doctor looks for the cause, pixels setup installs and starts Incus".into()
        }
        Error::Unreachable { endpoint, reason }
            if reason.contains("certificate") && endpoint.starts_with("TrueNAS") =>
        {
            "set truenas.fingerprint to the SHA-256 of the certificate after checking it there".into()
        }
        Error::Unreachable { reason, .. } if reason.contains("certificate") => {
            "set incus.server_cert to the server's certificate after checking its fingerprint there".into()
        }
        Error::Denied { endpoint, .. } if endpoint.starts_with("Incus at /") => {
            "add yourself to the group incus-admin and log in again, or run as root".into()
        }
        Error::Denied { endpoint, .. } if endpoint.contains("Incus") => {
            "the server must trust your client certificate: incus config trust add-certificate FILE there".into()
        }
        _ => return None,
    })
}
