//! Fuzz tests of the daemon's answers, events, streams and files.

use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::client::decode_metadata;
use super::{Failure, exec, exec_streams, instances, watch, websocket, wire};
use crate::backend::sftp;
use crate::backend::tls::ByteStream;
use crate::fuzz::{asynchronous, fuzz};
use crate::model::{Capture, Name, Subject};

const WORDS: &[&str] = &[
    "\"type\":\"error\"",
    "\"type\":\"async\"",
    "\"metadata\":",
    "\"error_code\":404",
    "\"error\":",
    "\"config\":{",
    "\"expanded_devices\":{",
    "\"state\":",
    "\"network\":{",
    "\"addresses\":[",
    "\"counters\":",
    "\"bytes_received\":",
    "null",
    "[",
    "]",
    "{",
    "}",
    ",",
    "0001-01-01T00:00:00Z",
    "already used on network",
    "\"px-",
];

#[test]
fn answers() {
    fuzz("incus-answers", 6000, WORDS, |bytes| {
        let Ok(answer) = serde_json::from_slice::<wire::Envelope>(bytes) else {
            return "none".to_owned();
        };
        if answer.kind == "error" {
            let (code, message) = (answer.error_code, answer.error);
            let failure = Failure::refusal("/socket", code, message, Some("other"));
            let error = failure.into_error_for(Subject::Network("a".into()));
            return format!("{:.20}", format!("{error:?}"));
        }
        let metadata = answer.metadata.as_deref();
        fn reads<T: DeserializeOwned>(metadata: Option<&serde_json::value::RawValue>) -> Option<T> {
            decode_metadata(metadata).ok()
        }
        let mut kinds = String::new();
        let all: Option<Vec<wire::Instance>> = reads(metadata);
        let one: Option<wire::Instance> = reads(metadata);
        for found in all.into_iter().flatten().chain(one) {
            if let Some(name) = Name::from_instance(&found.name) {
                let pixel = instances::instance(found, name);
                kinds.push_str(pixel.status.as_str());
            }
        }
        if let Some(state) = reads::<wire::State>(metadata) {
            let usage = instances::usage(state);
            kinds.push_str(if usage.received > 0 { "state" } else { "empty" });
        }
        let operation: Option<wire::Operation> = reads(metadata);
        let known = [
            operation.is_some(),
            reads::<Vec<wire::Snapshot>>(metadata).is_some(),
            reads::<Vec<wire::Lease>>(metadata).is_some(),
            reads::<wire::Profile>(metadata).is_some(),
            reads::<Vec<wire::Pool>>(metadata).is_some(),
            reads::<Vec<wire::Network>>(metadata).is_some(),
            reads::<wire::NetworkState>(metadata).is_some(),
            reads::<wire::ImageAlias>(metadata).is_some(),
            reads::<wire::Server>(metadata).is_some(),
        ];
        if let Some(operation) = operation {
            let secrets = exec::Secrets::parse(&operation.metadata).is_ok();
            let status = exec::exit_status(Ok(operation));
            kinds.push_str(&format!("{secrets} {}", status.is_ok()));
        }
        format!("{kinds} {known:?}")
    });
}

#[test]
fn events() {
    let words = [
        "\"type\":\"lifecycle\"",
        "\"source\":\"/1.0/instances/px-a\"",
        "/snapshots/",
        "?project=",
        "\"requestor\":",
        "\"username\":",
        "\"action\":\"instance-started\"",
        "\"timestamp\":",
    ];
    fuzz("incus-events", 12_000, &words, |bytes| {
        let event: watch::Event = serde_json::from_slice(bytes).ok()?;
        let read = watch::parse(event)?;
        Some((read.checkpoint.is_some(), read.by.is_some()))
    });
}

#[test]
fn frames() {
    let words = ["\u{1}", "\x02\x00", "\x7e\x7f", "\0\0\0\0\0\0\0\0"];
    fuzz("incus-frames", 3000, &words, |bytes| {
        asynchronous(async {
            // The server sends these bytes and closes the connection.
            let sent = std::io::Cursor::new(bytes.to_vec());
            let stream: Box<dyn ByteStream> = Box::new(tokio::io::join(sent, tokio::io::sink()));
            let config = websocket::config(4096);
            let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
            let output = Capture::head(0);
            let ended = CancellationToken::new();
            let split = exec_streams::split(socket);
            let outcome = exec_streams::drain(split, Box::new(output.clone()), &ended).await;
            let count = output.take().total;
            assert!(count <= bytes.len() as u64);
            (outcome.is_ok(), count > 0)
        })
    });
}

/// A server that answers each packet with the next part of `bytes`, under the
/// request's id.
fn in_turn(bytes: &[u8]) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let mut rest = bytes.to_vec();
    tokio::spawn(async move {
        while !rest.is_empty() {
            let length = far.read_u32().await? as usize;
            let mut asked = vec![0; length];
            far.read_exact(&mut asked).await?;
            let length = rest
                .first_chunk()
                .map(|head| u32::from_be_bytes(*head) as usize);
            let end = length.map_or(rest.len(), |length| {
                length.saturating_add(4).min(rest.len())
            });
            let mut packet: Vec<u8> = rest.drain(..end).collect();
            // The version packet has no request id.
            if let (Some(to), Some(number), true) =
                (packet.get_mut(5..9), asked.get(1..5), asked[0] != 1)
            {
                to.copy_from_slice(number);
            }
            far.write_all(&packet).await?;
        }
        Ok::<(), std::io::Error>(())
    });
    near
}

#[test]
fn files() {
    let words = [
        "\0\0\0",
        "\x02\0\0\0\x03",
        "HTTP/1.1 101 Switching",
        "\r\n\r\n",
    ];
    fuzz("incus-sftp", 1500, &words, |bytes| {
        asynchronous(async {
            let session = sftp::Files::open(in_turn(bytes)).await;
            let Ok(session) = session else { return 0 };
            let listed = sftp::list(&session, "/").await;
            let stat = sftp::stat(&session, "/a").await;
            let read = sftp::read(&session, "/a", 1 << 20).await;
            let outcomes = [listed.is_ok(), stat.is_ok(), read.is_ok()];
            outcomes.iter().fold(1, |kind, ok| 2 * kind + u8::from(*ok))
        })
    });
}
