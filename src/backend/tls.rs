//! TLS settings. The server's certificate must be signed by an authority of the
//! system or of the settings, or match a pinned file or fingerprint, unless the
//! settings accept any certificate.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::model::hex;

/// A connection, with or without TLS.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// How to verify the server's certificate.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// SHA-256 in hex, with or without colons. If set, only this certificate is
    /// accepted, and the other fields are ignored.
    pub fingerprint: Option<String>,
    /// Path of a PEM file: the server's own certificate, which is pinned and may
    /// have any name, or a CA certificate, which requires a matching server name.
    pub server_cert: Option<PathBuf>,
    /// Accept any server certificate.
    pub insecure: bool,
}

/// The PEM files of a client certificate.
#[derive(Debug)]
pub struct Identity<'a> {
    pub cert: &'a Path,
    pub key: &'a Path,
}

/// Returns the TLS configuration for connections that are upgraded over
/// HTTP/1.1. The error is a message for the user.
pub fn config(
    options: &TlsOptions,
    identity: Option<Identity<'_>>,
) -> Result<ClientConfig, String> {
    let trust: Arc<dyn ServerCertVerifier> = Arc::new(Verifier::new(options)?);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(trust);
    let mut config = match identity {
        Some(Identity { cert, key }) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("client key {}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("client certificate {}: {e}", cert.display()))?
        }
        None => builder.with_no_client_auth(),
    };
    // HTTP/2 does not support such upgrades.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads the certificates of a PEM file. Fails if the file has no certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |e: &dyn Display| format!("certificate file {}: {e}", path.display());
    let all = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(&e))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(&e))?;
    if all.is_empty() {
        return Err(bad(&"the file has no certificate"));
    }
    Ok(all)
}

#[derive(Debug)]
struct Verifier {
    /// The options with a [`normalize`]d fingerprint.
    options: TlsOptions,
    pinned: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(options: &TlsOptions) -> Result<Self, String> {
        let provider = Arc::new(provider::default_provider());
        let fingerprint = options.fingerprint.as_deref().map(normalize).transpose()?;
        let mut roots = RootCertStore::empty();
        let pinned = match &options.server_cert {
            Some(file) => certificates(file)?,
            None => Vec::new(),
        };
        if pinned.is_empty() && fingerprint.is_none() && !options.insecure {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        roots.add_parsable_certificates(pinned.iter().cloned());
        // `build` fails without root certificates.
        let chain =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .ok();
        Ok(Self {
            options: TlsOptions {
                fingerprint,
                ..options.clone()
            },
            pinned,
            chain,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn rejection(&self, fingerprint: &str, cause: &dyn Display) -> rustls::Error {
        let text = match &self.options.server_cert {
            Some(file) if self.options.fingerprint.is_none() => format!(
                "the server's certificate (SHA-256 {fingerprint}) is neither the one in {} nor signed \
                 by it for this name ({cause})",
                file.display()
            ),
            _ => {
                format!(
                    "the server's certificate (SHA-256 {fingerprint}) is not trusted here ({cause})"
                )
            }
        };
        rustls::Error::Other(OtherError(Arc::new(UntrustedCertificate(text))))
    }
}

/// The settings and the system do not trust the server's certificate.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UntrustedCertificate(String);

/// Returns why the server's certificate is not trusted, if that caused the error.
pub fn untrusted_certificate(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(rustls::Error::Other(OtherError(cause))) = error.downcast_ref() {
        let refusal = cause.downcast_ref::<UntrustedCertificate>()?;
        return Some(refusal.to_string());
    }
    // `source` of an I/O error skips the inner error.
    let inner = error.downcast_ref().and_then(io::Error::get_ref);
    untrusted_certificate(match inner {
        Some(inner) => inner,
        None => error.source()?,
    })
}

/// Converts a fingerprint to lower-case hex without colons.
fn normalize(fingerprint: &str) -> Result<String, String> {
    let digits = fingerprint.replace(':', "").to_ascii_lowercase();
    if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    Err(format!(
        "the fingerprint {fingerprint:?} is not a SHA-256 in hex"
    ))
}

/// Returns the SHA-256 of a certificate in lower-case hex.
fn sha256(certificate: &CertificateDer<'_>) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fingerprint = sha256(end);
        if let Some(pin) = &self.options.fingerprint {
            return match *pin == fingerprint {
                true => Ok(ServerCertVerified::assertion()),
                false => {
                    Err(self.rejection(&fingerprint, &"the settings have a different fingerprint"))
                }
            };
        }
        if self.options.insecure || self.pinned.iter().any(|pin| pin == end) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chain {
            Some(chain) => chain
                .verify_server_cert(end, intermediates, name, ocsp, now)
                .map_err(|cause| self.rejection(&fingerprint, &cause)),
            None => Err(self.rejection(
                &fingerprint,
                &"this machine has no trusted root certificates",
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalize_accepts_colons_and_upper_case() {
        let plain = "ab".repeat(32);
        assert_eq!(normalize(&plain).unwrap(), plain);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(normalize(&colons).unwrap(), plain);
        for bad in ["", "ab", &"zz".repeat(32)] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }
}
