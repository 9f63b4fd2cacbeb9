//! A client that remembers which certificates it was shown.

use super::certificate::first_expiry;
use super::{TlsError, Verifier, trusting, verifier};
use crate::clock::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsConnector;

/// What a server showed of itself.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Option<Timestamp>>>);

impl Seen {
    /// When the first of the certificates expires that came with the last handshake, be they trusted or not; `None`
    /// before that, or where they cannot be read.
    pub fn expiry(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same trust as [`connector`](super::connector)'s, with an eye on what is shown.
pub fn observing_connector(ca_file: Option<&Path>) -> Result<(TlsConnector, Seen), TlsError> {
    let seen = Seen::default();
    let observer = Observer { verifier: verifier(ca_file)?, seen: seen.clone() };
    Ok((TlsConnector::from(Arc::new(trusting(Arc::new(observer))?)), seen))
}

#[derive(Debug)]
struct Observer {
    verifier: Verifier,
    seen: Seen,
}

impl ServerCertVerifier for Observer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = first_expiry(&shown);
        self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
