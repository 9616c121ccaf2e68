//! Text that attacks a terminal, and a simulated Incus server that puts such
//! text into every string.

use std::io::{self, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use ring::digest;
use serde_json::{Value, json};

use super::env::{Outcome, TestEnv};
use super::http;

/// Overwrites the line, sets the title, clears the screen, changes the color by a
/// C1 character, reverses the text direction, and hides text.
pub const ATTACK: &str =
    "\r\u{8}\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\u{200b}\u{e0041}\u{feff}";

/// Panics if text contains a character of [`ATTACK`], or another character that
/// controls the terminal.
#[track_caller]
pub fn assert_plain(text: &str, from: &str) {
    let escapes = |c: char| c.is_control() && c != '\n';
    let attacks = |c: char| !c.is_ascii() && ATTACK.contains(c);
    let found = text.find(|c| escapes(c) || attacks(c));
    assert!(found.is_none(), "{from}: {text:?}");
}

/// Like [`assert_plain`], for the output on a terminal, where pixels itself draws
/// colors and progress lines.
#[track_caller]
pub fn assert_plain_screen(screen: &str, from: &str) {
    let mut text = screen.replace('\r', "");
    // Colors, cursor movements and deletion of a line.
    while let Some(at) = text.find("\x1b[") {
        let end = text[at..].find(['m', 'A', 'K']);
        let end = end.unwrap_or_else(|| panic!("{from}: {screen:?}"));
        let sequence: String = text.drain(at..=at + end).collect();
        let mut parameters = sequence[2..sequence.len() - 1].chars();
        let known = parameters.all(|c| c.is_ascii_digit() || c == ';');
        assert!(known, "{from}: {screen:?}");
    }
    assert_plain(&text, from);
}

#[track_caller]
pub fn assert_plain_outcome(outcome: &Outcome, args: &[&str]) {
    let args = format!("{args:?}");
    assert_plain(&outcome.stdout, &args);
    assert_plain(&outcome.stderr, &args);
}

/// A server with the pixel `a`. It refuses all changes.
pub struct HostileServer {
    socket: PathBuf,
}

impl HostileServer {
    /// Starts a server whose strings are `text`, and makes `env` use it.
    pub fn start(env: &mut TestEnv, text: &str) -> Self {
        let socket = env.home().join("hostile.socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let text: Arc<str> = text.into();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let text = Arc::clone(&text);
                std::thread::spawn(move || serve(stream, &text));
            }
        });
        env.set("PIXELS_INCUS_SOCKET", socket.to_str().unwrap());
        Self { socket }
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(stream: UnixStream, text: &str) -> io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let mut to = stream;
    while let Some(head) = http::head(&mut from)? {
        http::body(&head, &mut from, &mut Vec::new())?;
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let path = path.split('?').next().unwrap();
        if let Some(key) = http::field(&head, "sec-websocket-key") {
            return send_event(&mut to, key, text);
        }
        let answer = match (method, answer(path, text)) {
            ("GET", Some(metadata)) => json!({"type": "sync", "metadata": metadata}),
            // Some commands continue after this error.
            ("GET", None) => json!({"type": "error", "error_code": 404, "error": text}),
            _ => json!({"type": "error", "error_code": 500, "error": text}),
        };
        let code = answer["error_code"].as_u64().unwrap_or(200);
        let body = answer.to_string();
        write!(
            to,
            "HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

fn answer(path: &str, text: &str) -> Option<Value> {
    let created = "2026-11-23T14:07:46.252698822Z";
    let mut config = json!({
        "image.description": text,
        "limits.cpu": text,
        "limits.memory": text,
        "volatile.eth0.hwaddr": text,
    });
    for key in ["egress", "from", "provision", "creator", "expires", text] {
        config[format!("user.pixels.{key}")] = json!(text);
    }
    let instance = json!({
        "name": "px-a",
        "status_code": 103,
        "created_at": created,
        "last_used_at": created,
        "config": config,
        "expanded_config": config,
        "expanded_devices": {"eth0": {"network": text, text: text}},
    });
    let snapshot =
        |name: &str, created: &str| json!({"name": name, "created_at": created, "config": config});
    Some(match path {
        "/1.0" => json!({
            "api_extensions": ["network_bridge_acl", text],
            "auth": "trusted",
            "environment": {
                "server_version": text,
                "storage_supported_drivers": [{"Name": text}],
            },
        }),
        "/1.0/instances" => json!([instance, {"name": text}]),
        "/1.0/instances/px-a" => instance,
        "/1.0/instances/px-a/state" => json!({
            "network": {"eth0": {"addresses": [
                {"family": text, "address": text, "scope": text},
                {"family": "inet", "address": "10.0.0.1", "scope": "global"},
            ]}},
        }),
        "/1.0/instances/px-a/snapshots" => json!([
            snapshot("one", created),
            snapshot(text, "2026-11-24T14:07:46Z"),
        ]),
        "/1.0/storage-pools" => json!([{"name": text, "driver": text, "status": text}]),
        "/1.0/networks" => json!([{"name": text, "type": text, "managed": true, "status": text}]),
        "/1.0/profiles/default" => json!({"devices": {"eth0": {"network": text, "type": text}}}),
        "/1.0/images/aliases" => json!([{"name": text}]),
        _ => return None,
    })
}

/// Opens a WebSocket, sends one event, and closes it.
fn send_event(to: &mut UnixStream, key: &str, text: &str) -> io::Result<()> {
    let accepted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accepted = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, accepted.as_bytes());
    let accepted = base64::engine::general_purpose::STANDARD.encode(accepted);
    write!(
        to,
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accepted}\r\n\r\n"
    )?;
    let event = json!({
        "timestamp": text,
        "metadata": {
            "action": text,
            "source": format!("/1.0/instances/px-a/snapshots/{text}"),
            "requestor": {"username": text, "protocol": text, "address": text},
        },
    });
    let event = event.to_string();
    // A text frame with a length of 16 bits.
    to.write_all(&[0x81, 126])?;
    to.write_all(&u16::try_from(event.len()).unwrap().to_be_bytes())?;
    to.write_all(event.as_bytes())
}
