//! A client that remembers which certificates it was shown.

use crate::tls::certificate::first_expiry;
use crate::tls::{TlsError, build_recording_config};
use mailtrail_mail::Timestamp;
use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_rustls::TlsConnector;

/// Recorded certificate of a server.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificateInfo(Arc<Mutex<Option<Timestamp>>>);

impl PeerCertificateInfo {
    pub(super) fn record_chain(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let shown: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = first_expiry(&shown);
    }

    /// When the first of the certificates expires that came with the last handshake, be they trusted or not; `None`
    /// before that, or where they cannot be read.
    pub fn earliest_expiry(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds a connector with the trust of `build_connector` that records the server's certificate.
pub fn recording_connector(ca_file: Option<&Path>) -> Result<(TlsConnector, PeerCertificateInfo), TlsError> {
    let seen = PeerCertificateInfo::default();
    Ok((TlsConnector::from(Arc::new(build_recording_config(ca_file, Some(seen.clone()))?)), seen))
}
