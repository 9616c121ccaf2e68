//! Which certificate a server may show: one of the system's authorities, of
//! the user's own, one certificate that is pinned by a file or by its
//! fingerprint, or any.

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

use crate::model::hex;

/// What the user's settings say of it.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// SHA-256 in hex, with or without colons. It is the whole of the trust,
    /// whatever else is set.
    pub fingerprint: Option<String>,
    /// PEM file with the server's own certificate (pinned, whatever name it
    /// carries) or with the CA that signed it (the name is then checked).
    pub server_cert: Option<PathBuf>,
    /// Any certificate will do.
    pub insecure: bool,
}

/// A client's own certificate, by its PEM files.
#[derive(Debug)]
pub struct Identity<'a> {
    pub cert: &'a Path,
    pub key: &'a Path,
}

impl Identity<'_> {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain = certificates(self.cert)?;
        let key = PrivateKeyDer::from_pem_file(self.key)
            .map_err(|e| format!("client key {}: {e}", self.key.display()))?;
        Ok((chain, key))
    }
}

/// For connections that are upgraded by HTTP/1.1. The error is for people.
pub fn config(
    options: &TlsOptions,
    identity: Option<Identity<'_>>,
) -> Result<ClientConfig, String> {
    let trust: Arc<dyn ServerCertVerifier> = Arc::new(Trust::new(options)?);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(trust);
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = identity.read()?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("client certificate {}: {e}", identity.cert.display()))?
        }
        None => builder.with_no_client_auth(),
    };
    // A server may offer HTTP/2 too, over which there is no upgrade.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |e: &dyn Display| format!("certificate file {}: {e}", path.display());
    let all = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(&e))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(&e))?;
    if all.is_empty() {
        return Err(bad(&"it holds no certificate"));
    }
    Ok(all)
}

#[derive(Debug)]
struct Trust {
    fingerprint: Option<String>,
    pinned: Vec<CertificateDer<'static>>,
    pinned_file: Option<PathBuf>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    insecure: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    fn new(options: &TlsOptions) -> Result<Self, String> {
        let provider = Arc::new(provider::default_provider());
        let fingerprint = options.fingerprint.as_deref().map(normal).transpose()?;
        let mut roots = RootCertStore::empty();
        let pinned = match &options.server_cert {
            Some(file) => certificates(file)?,
            None => Vec::new(),
        };
        if pinned.is_empty() && fingerprint.is_none() && !options.insecure {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        roots.add_parsable_certificates(pinned.iter().cloned());
        let chain = if roots.is_empty() {
            None
        } else {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .ok()
        };
        Ok(Self {
            fingerprint,
            pinned,
            pinned_file: options.server_cert.clone(),
            chain,
            insecure: options.insecure,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn refusal(&self, print: &str, cause: &dyn Display) -> rustls::Error {
        let text = match &self.pinned_file {
            Some(file) if self.fingerprint.is_none() => format!(
                "the server's certificate (SHA-256 {print}) is neither the one in {} nor signed \
                 by it for this name ({cause})",
                file.display()
            ),
            _ => {
                format!("the server's certificate (SHA-256 {print}) is not trusted here ({cause})")
            }
        };
        rustls::Error::Other(OtherError(Arc::new(UntrustedCertificate(text))))
    }
}

/// The server's certificate is not one that the settings or the system trust.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UntrustedCertificate(String);

/// Why the server's certificate is not trusted, where that made the connection fail.
pub fn untrusted_certificate(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::Other(OtherError(cause)) => {
            let refusal = cause.downcast_ref::<UntrustedCertificate>()?;
            Some(refusal.to_string())
        }
        _ => None,
    }
}

/// Lower-case hex without colons.
fn normal(fingerprint: &str) -> Result<String, String> {
    let digits = fingerprint.replace(':', "").to_ascii_lowercase();
    if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    Err(format!(
        "the fingerprint {fingerprint:?} is no SHA-256 in hex"
    ))
}

/// Lower-case hex SHA-256 of a certificate.
fn digest(certificate: &CertificateDer<'_>) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref())
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let print = digest(end);
        if let Some(pin) = &self.fingerprint {
            return match *pin == print {
                true => Ok(ServerCertVerified::assertion()),
                false => Err(self.refusal(&print, &"the fingerprint in the settings is another")),
            };
        }
        if self.insecure || self.pinned.iter().any(|pin| pin == end) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chain {
            Some(chain) => chain
                .verify_server_cert(end, intermediates, name, ocsp, now)
                .map_err(|cause| self.refusal(&print, &cause)),
            None => Err(self.refusal(&print, &"this machine has no trusted roots")),
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
    fn fingerprints_are_read_in_the_usual_forms() {
        let plain = "ab".repeat(32);
        assert_eq!(normal(&plain).unwrap(), plain);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(normal(&colons).unwrap(), plain);
        for bad in ["", "ab", &"zz".repeat(32)] {
            assert!(normal(bad).is_err(), "{bad}");
        }
    }
}
