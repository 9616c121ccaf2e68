//! TLS, the upgrade, frames, and the rules of the envelope.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::answer::{Fail, call};
use super::{Fault, Inner, LoginAnswer};

/// Characters: before login, after it, and for the one call with a file in it.
const ANONYMOUS: usize = 8192;
const LONGEST: usize = 65_536;
const LONGEST_FILE: usize = 2_097_152;
/// Calls that run at once, and calls that may be pending.
const RUNNING: usize = 10;
const IN_FLIGHT: usize = 20;

enum Out {
    Text(String),
    Close(u16, &'static str),
    /// The connection ends without a word.
    Cut,
}

/// One client.
pub struct Peer {
    out: UnboundedSender<Out>,
    subscribed: Mutex<HashSet<String>>,
    pub logged_in: AtomicBool,
    /// A login has failed on it: no other can succeed.
    pub spoilt: AtomicBool,
    silent: AtomicBool,
    in_flight: AtomicUsize,
    slots: tokio::sync::Semaphore,
}

impl Peer {
    pub fn event(&self, collection: &str, text: &str) {
        if self.subscribed.lock().unwrap().contains(collection) {
            let _ = self.out.send(Out::Text(text.to_owned()));
        }
    }

    pub fn subscribe(&self, collection: &str) {
        self.subscribed
            .lock()
            .unwrap()
            .insert(collection.to_owned());
    }

    pub fn cut(&self) {
        let _ = self.out.send(Out::Cut);
    }
}

/// Takes connections until the server ends; its port, certificate and print.
pub fn listen(inner: &Arc<Inner>) -> (u16, String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["nas.test".to_owned()]).unwrap();
    let der = made.cert.der().clone();
    let print: String = ring::digest::digest(&ring::digest::SHA256, &der)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .unwrap();
    // As the real one: HTTP/2 is taken where it is offered, and spoils the upgrade.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Arc::clone(inner);
    inner.runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((tcp, _)) = listener.accept().await {
            let (server, acceptor) = (Arc::clone(&server), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    serve(stream, server).await;
                }
            });
        }
    });
    (port, made.cert.pem(), print)
}

async fn serve(mut stream: TlsStream<TcpStream>, server: Arc<Inner>) {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        server.wrong("HTTP/2 was offered".into());
        return;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let login = server.login.lock().unwrap().clone();
    let accept = field("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()));
    let reply = match (path, accept, &login) {
        (_, _, LoginAnswer::NoApi) => "HTTP/1.1 302 Found\r\nLocation: /ui/\r\n".to_owned(),
        ("/api/current", Some(accept), _) => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        ),
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n".to_owned(),
    };
    let upgraded = reply.starts_with("HTTP/1.1 101");
    let end = if upgraded { "" } else { "\r\n" };
    let sent = stream.write_all(format!("{reply}{end}").as_bytes()).await;
    if sent.is_err() || !upgraded {
        let _ = stream.flush().await;
        return;
    }
    let _ = stream.flush().await;
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    if matches!(login, LoginAnswer::NotAllowed) {
        let mut socket = socket;
        let frame = CloseFrame {
            code: 1008.into(),
            reason: "You are not allowed to access this resource".into(),
        };
        let _ = socket.close(Some(frame)).await;
        return;
    }
    converse(socket, server).await;
}

async fn converse(socket: WebSocketStream<TlsStream<TcpStream>>, server: Arc<Inner>) {
    let (out, mut queue) = unbounded_channel();
    let peer = Arc::new(Peer {
        out,
        subscribed: Mutex::default(),
        logged_in: AtomicBool::new(false),
        spoilt: AtomicBool::new(false),
        silent: AtomicBool::new(false),
        in_flight: AtomicUsize::new(0),
        slots: tokio::sync::Semaphore::new(RUNNING),
    });
    server.connections.lock().unwrap().push(Arc::clone(&peer));
    let (mut sink, mut stream) = socket.split();
    loop {
        if peer.silent.load(Ordering::Relaxed) {
            // Neither reads nor writes, and does not close either.
            tokio::time::sleep(Duration::from_secs(120)).await;
            break;
        }
        tokio::select! {
            biased;
            out = queue.recv() => match out {
                Some(Out::Text(text)) => {
                    if sink.send(Message::text(text)).await.is_err() { break }
                }
                Some(Out::Close(code, reason)) => {
                    let frame = CloseFrame { code: code.into(), reason: reason.into() };
                    let _ = sink.send(Message::Close(Some(frame))).await;
                    break;
                }
                Some(Out::Cut) | None => break,
            },
            frame = stream.next() => match frame {
                Some(Ok(Message::Text(text))) => take(text.to_string(), &peer, &server),
                Some(Ok(Message::Binary(_))) => {
                    server.wrong("a binary frame".into());
                    let _ = peer.out.send(Out::Close(1003, ""));
                }
                Some(Ok(Message::Ping(_))) => { let _ = sink.flush().await; }
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    let mut all = server.connections.lock().unwrap();
    all.retain(|one| !Arc::ptr_eq(one, &peer));
}

fn envelope(code: i64, message: &str, id: &Value) -> String {
    json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id}).to_string()
}

fn take(text: String, peer: &Arc<Peer>, server: &Arc<Inner>) {
    let say = |text: String| {
        let _ = peer.out.send(Out::Text(text));
    };
    let length = text.chars().count();
    let logged_in = peer.logged_in.load(Ordering::SeqCst);
    if !logged_in && length > ANONYMOUS {
        server.wrong(format!("{length} characters before login"));
        let reason = "Anonymous connection max message length is 8 kB";
        let _ = peer.out.send(Out::Close(1007, reason));
        return;
    }
    let Ok(request) = serde_json::from_str::<Value>(&text) else {
        server.wrong("no JSON".into());
        return say(envelope(-32700, "Expecting value", &Value::Null));
    };
    if request.is_array() {
        server.wrong("a batch".into());
        let text = "Batch messages are not supported at this time";
        return say(envelope(-32700, text, &Value::Null));
    }
    let method = request["method"].as_str().unwrap_or_default().to_owned();
    let longest = match method.as_str() {
        "filesystem.file_receive" => LONGEST_FILE,
        _ => LONGEST,
    };
    if length > longest {
        server.wrong(format!("{length} characters for {method}"));
        let _ = peer
            .out
            .send(Out::Close(1009, "Max message length is 64 kB"));
        return;
    }
    let id = request.get("id").cloned();
    let sound = request["jsonrpc"] == "2.0"
        && !method.is_empty()
        && request.get("params").is_none_or(Value::is_array)
        && id
            .as_ref()
            .is_none_or(|id| id.is_string() || id.is_i64() || id.is_null());
    if !sound {
        server.wrong(format!("a bad envelope for {method}"));
        if let Some(id) = id {
            say(envelope(-32600, "Invalid message format", &id));
        }
        return;
    }
    let params = request["params"].as_array().cloned().unwrap_or_default();
    if peer.in_flight.fetch_add(1, Ordering::SeqCst) >= IN_FLIGHT {
        peer.in_flight.fetch_sub(1, Ordering::SeqCst);
        server.wrong("more than 20 calls in flight".into());
        let text = "Maximum number of concurrent calls (20) has exceeded";
        return say(envelope(-32000, text, &id.unwrap_or(Value::Null)));
    }
    let (peer, server) = (Arc::clone(peer), Arc::clone(server));
    tokio::spawn(async move {
        let slot = peer.slots.acquire().await;
        run(&peer, &server, &method, params, id).await;
        drop(slot);
        peer.in_flight.fetch_sub(1, Ordering::SeqCst);
    });
}

async fn run(
    peer: &Arc<Peer>,
    server: &Arc<Inner>,
    method: &str,
    params: Vec<Value>,
    id: Option<Value>,
) {
    let fault = server.fault(method);
    let reply = |outcome: Result<Value, Value>| {
        let Some(id) = &id else { return };
        let text = match outcome {
            Ok(result) => json!({"jsonrpc": "2.0", "result": result, "id": id}),
            Err(error) => json!({"jsonrpc": "2.0", "error": error, "id": id}),
        };
        let _ = peer.out.send(Out::Text(text.to_string()));
    };
    match &fault {
        Some(Fault::CutBefore) => return peer.cut(),
        Some(Fault::CutDuring) => peer.cut(),
        Some(Fault::Silence) => {
            peer.silent.store(true, Ordering::Relaxed);
            // Wakes the one who writes.
            let _ = peer.out.send(Out::Text("{}".into()));
            return;
        }
        Some(Fault::Refuse(error)) => return reply(Err(error.clone())),
        Some(Fault::FullQueue) if super::jobs::task(server, method, &params).is_none() => {
            let text = "Maximum number of concurrent calls (20) has exceeded";
            return reply(Err(json!({"code": -32000, "message": text})));
        }
        _ => {}
    }
    let known = super::calls::is_known(server, method);
    let logged_in = peer.logged_in.load(Ordering::SeqCst);
    let early = !logged_in && super::calls::is_open(method) && method != "core.set_options";
    let limited = early.then(|| server.over_limit(method)).flatten();
    let outcome = if let Some(pause) = limited {
        tokio::time::sleep(pause).await;
        Err(call(16, "Rate Limit Exceeded"))
    } else if !known {
        Err(Fail::Missing)
    } else if !logged_in && !super::calls::is_open(method) {
        server.wrong(format!("{method} before login"));
        Err(call(207, "Not authenticated"))
    } else {
        let (theirs, peer, method) = (Arc::clone(server), Arc::clone(peer), method.to_owned());
        let (fault, call_id) = (fault.clone(), id.clone());
        tokio::task::spawn_blocking(move || {
            super::calls::run(&theirs, &peer, &method, &params, call_id, fault)
        })
        .await
        .unwrap_or_else(|_| Err(call(22, "the simulator failed")))
    };
    match fault {
        Some(Fault::CutAfter) => return peer.cut(),
        Some(Fault::Late(time)) => tokio::time::sleep(time).await,
        Some(Fault::Restart) => {
            let mut state = server.state.lock().unwrap();
            state.jobs.clear();
            state.next_job = 0;
            drop(state);
            for peer in server.connections.lock().unwrap().iter() {
                peer.cut();
            }
            return;
        }
        _ => {}
    }
    reply(outcome.map_err(|fail| fail.of_call()));
}
