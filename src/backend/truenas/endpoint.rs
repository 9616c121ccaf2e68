//! The server's address, and checks whether an API key may be sent there.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::backend::tls;
use crate::model::{Error, Result};

/// The server's address and the verification of its certificate.
#[derive(Debug, Clone)]
pub struct Server {
    /// A host name or an address, optionally with the prefix `wss://`, or `ws://`
    /// for a loopback address.
    pub host: String,
    pub port: u16,
    /// Path of a PEM file with the server's certificate or the CA certificate.
    pub server_cert: Option<PathBuf>,
    /// SHA-256 of the server's certificate, in hexadecimal.
    pub fingerprint: Option<String>,
    /// Accept any server certificate.
    pub insecure: bool,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    /// The host without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// The host and port, for messages and the `Host` header.
    pub authority: String,
    /// The TLS settings. `None` is allowed only for a loopback address.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// Reads and checks the certificates without opening a connection. Fails with
    /// `Error::Invalid`.
    pub fn new(server: &Server) -> Result<Self> {
        let invalid = |reason: &str| {
            Error::Invalid(format!("truenas.host {:?}: {reason}", server.host).into())
        };
        let (plain, rest) = match server.host.split_once("://") {
            Some(("ws" | "http", rest)) => (true, rest),
            Some(("wss" | "https", rest)) => (false, rest),
            Some(_) => return Err(invalid("the only supported scheme is wss://")),
            None => (false, server.host.as_str()),
        };
        let host = rest
            .trim_end_matches('/')
            .trim_matches(['[', ']'])
            .to_owned();
        let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_valid) {
            return Err(invalid("not a host name or address"));
        }
        if plain && !is_loopback(&host) {
            return Err(invalid(
                "an API key requires TLS: TrueNAS revokes keys that are sent without TLS",
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
                Some(Arc::new(config.map_err(|e| invalid(&e))?))
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

/// Checks only IP addresses, because the result of a DNS lookup is not trusted.
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
    fn tls_is_optional_for_loopback_only() {
        for invalid in [
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
                matches!(Endpoint::new(&server(invalid)), Err(Error::Invalid(_))),
                "{invalid}"
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
