//! Where the server is, and whether an API key may be sent there.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;

use super::error::Failure;
use crate::backend::tls;

/// How the server is found and recognised.
#[derive(Debug, Clone)]
pub struct Server {
    /// A name or an address; `wss://` and, to this machine itself, `ws://`
    /// may stand before it.
    pub host: String,
    pub port: u16,
    /// PEM file with the server's own certificate or the CA that signed it.
    pub server_cert: Option<PathBuf>,
    /// SHA-256 of the server's certificate, in hex.
    pub fingerprint: Option<String>,
    /// Accept any certificate.
    pub insecure: bool,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// With them, and with the port: for messages and the `Host` header.
    pub authority: String,
    /// `None` only for this machine itself.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// Reads and checks certificates; opens no connection.
    pub fn new(server: &Server) -> Result<Self, Failure> {
        let bad =
            |reason: &str| Failure::Setup(format!("truenas.host {:?}: {reason}", server.host));
        let (plain, rest) = match server.host.split_once("://") {
            Some(("ws" | "http", rest)) => (true, rest),
            Some(("wss" | "https", rest)) => (false, rest),
            Some(_) => return Err(bad("only wss:// may stand before the name")),
            None => (false, server.host.as_str()),
        };
        let host = rest
            .trim_end_matches('/')
            .trim_matches(['[', ']'])
            .to_owned();
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(sound) {
            return Err(bad("it is no name or address of a host"));
        }
        if plain && !is_loopback(&host) {
            return Err(bad(
                "an API key is sent over TLS alone: TrueNAS revokes one that comes without",
            ));
        }
        let authority = match host.contains(':') {
            true => format!("[{host}]:{}", server.port),
            false => format!("{host}:{}", server.port),
        };
        let tls = match plain {
            true => None,
            false => {
                let options = tls::TlsOptions {
                    fingerprint: server.fingerprint.clone(),
                    server_cert: server.server_cert.clone(),
                    insecure: server.insecure,
                };
                let config = tls::config(&options, None);
                Some(Arc::new(config.map_err(|e| bad(&e))?))
            }
        };
        Ok(Self {
            port: server.port,
            host,
            authority,
            tls,
        })
    }
}

/// By address, not by name: what a name leads to is somebody else's to say.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str) -> Server {
        Server {
            host: host.into(),
            port: 443,
            server_cert: None,
            fingerprint: Some("ab".repeat(32)),
            insecure: false,
        }
    }

    #[test]
    fn without_tls_there_is_only_this_machine() {
        for refused in [
            "ws://nas.example",
            "http://192.0.2.1",
            "ws://localhost",
            "ftp://nas",
            "",
            "nas/x",
            "a b",
            "user@nas",
        ] {
            assert!(
                matches!(Endpoint::new(&server(refused)), Err(Failure::Setup(_))),
                "{refused}"
            );
        }
        assert!(
            Endpoint::new(&server("ws://127.0.0.1"))
                .unwrap()
                .tls
                .is_none()
        );
        assert!(Endpoint::new(&server("ws://[::1]")).unwrap().tls.is_none());
        for host in ["nas.example", "wss://nas.example/", "127.0.0.1"] {
            assert!(
                Endpoint::new(&server(host)).unwrap().tls.is_some(),
                "{host}"
            );
        }
        let six = Endpoint::new(&server("2001:db8::1")).unwrap();
        assert_eq!(six.authority, "[2001:db8::1]:443");
    }
}
