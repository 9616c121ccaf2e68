//! Which certificate the server may show: one of the system's authorities, of
//! the user's own, one certificate known by its fingerprint, or any.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::endpoint::Server;
use super::failure::Failure;

pub(super) fn config(server: &Server) -> Result<ClientConfig, Failure> {
    let trust: Arc<dyn ServerCertVerifier> = Arc::new(Trust::new(server)?);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::Setup(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(trust)
        .with_no_client_auth();
    // The server offers HTTP/2 too, over which there is no upgrade.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Trust {
    fingerprint: Option<String>,
    pinned: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    insecure: bool,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl Trust {
    fn new(server: &Server) -> Result<Self, Failure> {
        let provider = Arc::new(provider::default_provider());
        let fingerprint = server.fingerprint.as_deref().map(normal).transpose()?;
        let mut roots = RootCertStore::empty();
        let pinned = match &server.server_cert {
            Some(file) => read(file)?,
            None => Vec::new(),
        };
        if pinned.is_empty() && fingerprint.is_none() && !server.insecure {
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
            chain,
            insecure: server.insecure,
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

/// Lower-case hex without colons.
fn normal(fingerprint: &str) -> Result<String, Failure> {
    let digits = fingerprint.replace(':', "").to_ascii_lowercase();
    if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    Err(Failure::Setup(format!(
        "truenas.fingerprint {fingerprint:?} is no SHA-256 in hex"
    )))
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bad = |e: &dyn std::fmt::Display| {
        Failure::Setup(format!("truenas.server_cert {}: {e}", path.display()))
    };
    let all = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(&e))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(&e))?;
    if all.is_empty() {
        return Err(bad(&"it holds no certificate"));
    }
    Ok(all)
}

fn digest(certificate: &CertificateDer<'_>) -> String {
    ring::digest::digest(&ring::digest::SHA256, certificate)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
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
        let refuse = |cause: &dyn std::fmt::Display| {
            rustls::Error::General(format!(
                "the server's certificate (SHA-256 {print}) is not trusted: {cause}"
            ))
        };
        if let Some(pin) = &self.fingerprint {
            // A pin is the whole of the trust, whatever else is set.
            return match *pin == print {
                true => Ok(ServerCertVerified::assertion()),
                false => Err(refuse(&"truenas.fingerprint is another")),
            };
        }
        if self.insecure || self.pinned.iter().any(|pin| pin == end) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chain {
            Some(chain) => chain
                .verify_server_cert(end, intermediates, name, ocsp, now)
                .map_err(|cause| refuse(&cause)),
            None => Err(refuse(&"this machine has no trusted roots")),
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
