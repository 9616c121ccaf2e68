//! TLS, WebSocket upgrade, frames, and JSON-RPC validation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::answer::call;
use super::calls::{self, LOGIN};
use super::{Fault, Inner, LoginAnswer};

/// Maximum characters per request: before login, after login, for an upload.
const ANONYMOUS: usize = 8192;
const LONGEST: usize = 65_536;
const LONGEST_FILE: usize = 2_097_152;
/// Maximum numbers of running calls and of calls without a response.
const RUNNING: usize = 10;
const IN_FLIGHT: usize = 20;

/// A client's connection.
pub struct Peer {
    /// Messages to send. `None` closes the connection without a close frame.
    out: UnboundedSender<Option<String>>,
    pub subscribed: AtomicBool,
    pub logged_in: AtomicBool,
    /// A login failed on this connection, so later logins fail too.
    pub spoilt: AtomicBool,
    silent: AtomicBool,
    in_flight: AtomicUsize,
    slots: tokio::sync::Semaphore,
}

impl Peer {
    pub fn say(&self, text: String) {
        let _ = self.out.send(Some(text));
    }

    fn cut(&self) {
        let _ = self.out.send(None);
    }
}

/// Starts accepting connections. Returns port, certificate and fingerprint.
pub fn listen(server: &Arc<Inner>, runtime: &Handle) -> (u16, String, String) {
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
    // Like TrueNAS, accept HTTP/2 if offered. The upgrade then fails.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Arc::clone(server);
    runtime.spawn(async move {
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

#[allow(clippy::result_large_err, reason = "the type of the callback")]
async fn serve(stream: TlsStream<TcpStream>, server: Arc<Inner>) {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        server.wrong("HTTP/2 was offered".into());
        return;
    }
    let login = server.state.lock().unwrap().login.clone();
    let upgrade = |request: &Request, response: Response| {
        let status = match (&login, request.uri().path()) {
            (LoginAnswer::NoApi, _) => StatusCode::FOUND,
            (_, "/api/current") => return Ok(response),
            _ => StatusCode::NOT_FOUND,
        };
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = status;
        Err(refusal)
    };
    let Ok(mut socket) = accept_hdr_async(stream, upgrade).await else {
        return;
    };
    if matches!(login, LoginAnswer::NotAllowed) {
        let frame = CloseFrame {
            code: 1008.into(),
            reason: "You are not allowed to access this resource".into(),
        };
        let _ = socket.close(Some(frame)).await;
        return;
    }
    converse(socket, server).await;
}

async fn converse(mut socket: WebSocketStream<TlsStream<TcpStream>>, server: Arc<Inner>) {
    let (out, mut queue) = unbounded_channel();
    let peer = Arc::new(Peer {
        out,
        subscribed: AtomicBool::new(false),
        logged_in: AtomicBool::new(false),
        spoilt: AtomicBool::new(false),
        silent: AtomicBool::new(false),
        in_flight: AtomicUsize::new(0),
        slots: tokio::sync::Semaphore::new(RUNNING),
    });
    server.connections.lock().unwrap().push(Arc::clone(&peer));
    loop {
        if peer.silent.load(Ordering::Relaxed) {
            // Keep the connection open without reading or writing.
            tokio::time::sleep(Duration::from_secs(120)).await;
            break;
        }
        tokio::select! {
            biased;
            out = queue.recv() => match out.flatten() {
                Some(text) => if socket.send(Message::text(text)).await.is_err() { break },
                None => break,
            },
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => take(&text, &peer, &server),
                Some(Ok(Message::Binary(_))) => {
                    server.wrong("a binary frame".into());
                    break;
                }
                Some(Ok(Message::Ping(_))) => { let _ = socket.flush().await; }
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    let mut all = server.connections.lock().unwrap();
    all.retain(|one| !Arc::ptr_eq(one, &peer));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    jsonrpc: String,
    id: String,
    method: String,
    params: Vec<Value>,
}

/// Starts the call. Closes the connection if the request violates the protocol.
fn take(text: &str, peer: &Arc<Peer>, server: &Arc<Inner>) {
    let refuse = |what: String| {
        server.wrong(what);
        peer.cut();
    };
    let request: Envelope = match serde_json::from_str(text) {
        Ok(request) => request,
        Err(error) => return refuse(format!("invalid request: {error}")),
    };
    if request.jsonrpc != "2.0" {
        return refuse(format!("invalid JSON-RPC version: {}", request.jsonrpc));
    }
    let length = text.chars().count();
    let longest = match request.method.as_str() {
        _ if !peer.logged_in.load(Ordering::SeqCst) => ANONYMOUS,
        "filesystem.file_receive" => LONGEST_FILE,
        _ => LONGEST,
    };
    if length > longest {
        return refuse(format!("{length} characters in {} request", request.method));
    }
    if peer.in_flight.fetch_add(1, Ordering::SeqCst) >= IN_FLIGHT {
        return refuse("more than 20 calls in flight".into());
    }
    let (peer, server) = (Arc::clone(peer), Arc::clone(server));
    tokio::spawn(async move {
        let slot = peer.slots.acquire().await;
        run(&peer, &server, request).await;
        drop(slot);
        peer.in_flight.fetch_sub(1, Ordering::SeqCst);
    });
}

async fn run(peer: &Arc<Peer>, server: &Arc<Inner>, request: Envelope) {
    let Envelope {
        id, method, params, ..
    } = request;
    let fault = server.fault(&method);
    let reply = |outcome: Result<Value, Value>| {
        let text = match outcome {
            Ok(result) => json!({"jsonrpc": "2.0", "result": result, "id": id}),
            Err(error) => json!({"jsonrpc": "2.0", "error": error, "id": id}),
        };
        peer.say(text.to_string());
    };
    match &fault {
        Some(Fault::CutBefore) => return peer.cut(),
        Some(Fault::CutDuring) => peer.cut(),
        Some(Fault::Silence) => {
            peer.silent.store(true, Ordering::Relaxed);
            // Wake the task of this connection.
            return peer.say("{}".into());
        }
        Some(Fault::Refuse(error)) => return reply(Err(error.clone())),
        Some(Fault::FullQueue) if super::jobs::task(&method, &params).is_none() => {
            let text = "Maximum number of concurrent calls (20) has exceeded";
            return reply(Err(json!({"code": -32000, "message": text})));
        }
        _ => {}
    }
    let logged_in = peer.logged_in.load(Ordering::SeqCst);
    let limited = (!logged_in).then(|| server.over_limit()).flatten();
    let outcome = if let Some(pause) = limited {
        tokio::time::sleep(pause).await;
        Err(call(16, "Rate Limit Exceeded"))
    } else if !logged_in && method != LOGIN {
        server.wrong(format!("{method} before login"));
        Err(call(207, "Not authenticated"))
    } else {
        let (theirs, peer, fault) = (Arc::clone(server), Arc::clone(peer), fault.clone());
        let id = id.clone();
        tokio::task::spawn_blocking(move || {
            calls::run(&theirs, &peer, &method, &params, &id, fault)
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
