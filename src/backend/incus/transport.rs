//! Connections to the daemon over a Unix socket, or TLS with a client
//! certificate. HTTP and upgraded connections (WebSocket, SFTP) use the same
//! settings, and so verify the server in the same way.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::crypto::ring as provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use url::Url;

use super::error::Failure;
use crate::backend::tls::{self, ByteStream, TlsOptions};
use crate::model::{Error, Result};

/// Deadline for opening a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// TCP keep-alive to a remote server: the idle time before the first probe, the
/// interval between probes, and the number of unanswered probes after which the
/// connection is closed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// The address of the daemon and the credentials.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// The path of the local daemon's socket.
    Unix(PathBuf),
    Https(Remote),
}

#[derive(Debug, Clone, Default)]
pub struct Remote {
    /// The URL of the server, such as `https://box:8443`.
    pub url: String,
    /// Paths of the certificate and key in PEM format. Set both or neither.
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub trust: TlsOptions,
}

#[derive(Debug)]
pub(super) struct Transport {
    kind: Kind,
    /// The socket's path or the server's URL, for messages.
    pub name: String,
}

#[derive(Debug)]
enum Kind {
    Unix(PathBuf),
    Https {
        /// The host without the brackets of an IPv6 address.
        host: String,
        port: u16,
        /// The host and port, with the brackets of an IPv6 address.
        authority: String,
        tls: Arc<ClientConfig>,
    },
}

impl Transport {
    /// Reads and checks certificates without opening a connection.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        match endpoint {
            Endpoint::Unix(path) => Ok(Self {
                name: path.display().to_string(),
                kind: Kind::Unix(path.clone()),
            }),
            Endpoint::Https(remote) => {
                let bad = |reason: String| {
                    Error::Invalid(format!("incus remote {:?}: {reason}", remote.url).into())
                };
                let url = Url::parse(&remote.url).map_err(|e| bad(e.to_string()))?;
                if url.scheme() != "https" {
                    return Err(bad("only https:// URLs are accepted".into()));
                }
                let name = url.host_str().ok_or_else(|| bad("no host found".into()))?;
                let port = url.port().unwrap_or(443);
                Ok(Self {
                    name: remote.url.trim_end_matches('/').to_owned(),
                    kind: Kind::Https {
                        host: name.trim_matches(['[', ']']).to_owned(),
                        port,
                        authority: format!("{name}:{port}"),
                        tls: Arc::new(tls_config(remote)?),
                    },
                })
            }
        }
    }

    /// Returns the absolute URL of an API path.
    pub fn url(&self, path_and_query: &str) -> String {
        match &self.kind {
            Kind::Unix(_) => format!("http://incus{path_and_query}"),
            Kind::Https { authority, .. } => format!("https://{authority}{path_and_query}"),
        }
    }

    /// Returns the value of the `Host` header.
    pub fn host(&self) -> &str {
        match &self.kind {
            Kind::Unix(_) => "incus",
            Kind::Https { authority, .. } => authority,
        }
    }

    /// Creates an HTTP client.
    pub fn http(&self) -> Result<reqwest::Client> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT);
        let builder = match &self.kind {
            // Disables the connection pool, which could open an idle connection in advance
            // and so block the daemon (see `connect`). TLS is not used here; an empty TLS
            // configuration avoids reading the system's root certificates for every
            // command.
            Kind::Unix(path) => builder
                .unix_socket(path.clone())
                .pool_max_idle_per_host(0)
                .tls_backend_preconfigured(plain_config()?),
            Kind::Https { tls, .. } => builder
                .tcp_keepalive(KEEPALIVE_IDLE)
                .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
                .tcp_keepalive_retries(KEEPALIVE_PROBES)
                .tls_backend_preconfigured((**tls).clone()),
        };
        builder.build().map_err(setup_error)
    }

    /// Opens a connection, on which the caller must send at once. The daemon reads
    /// the first bytes in its accept loop, so an idle connection blocks all other
    /// clients.
    pub async fn connect(&self) -> Result<Box<dyn ByteStream>, Failure> {
        let attempt = async {
            let stream: Box<dyn ByteStream> = match &self.kind {
                Kind::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Kind::Https {
                    host, port, tls, ..
                } => {
                    let tcp = TcpStream::connect((host.as_str(), *port)).await?;
                    tcp.set_nodelay(true)?;
                    enable_keepalive(&tcp)?;
                    let name = ServerName::try_from(host.clone())
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
                    let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
                    Box::new(connector.connect(name, tcp).await?)
                }
            };
            Ok(stream)
        };
        match tokio::time::timeout(CONNECT, attempt).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Failure::connection(&self.name, &error)),
            Err(_) => {
                let reason = format!("no connection within {} s", CONNECT.as_secs());
                Err(Failure::unreachable(&self.name, reason))
            }
        }
    }
}

fn enable_keepalive(tcp: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
    Ok(())
}

/// TLS settings that trust no server certificate.
pub(super) fn plain_config() -> Result<ClientConfig> {
    let provider = Arc::new(provider::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup_error)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

/// Returns the error for invalid connection settings.
fn setup_error(error: impl ToString) -> Error {
    Error::Invalid(error.to_string().into())
}

fn tls_config(remote: &Remote) -> Result<ClientConfig> {
    let identity = match (&remote.client_cert, &remote.client_key) {
        (Some(cert), Some(key)) => Some(tls::Identity { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (set, missing) = match cert {
                Some(_) => ("cert", "key"),
                None => ("key", "cert"),
            };
            return Err(setup_error(format!(
                "incus.client_{set} is set, but incus.client_{missing} is not"
            )));
        }
    };
    tls::config(&remote.trust, identity).map_err(setup_error)
}
