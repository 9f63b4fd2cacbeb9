use crate::refusals::Refusal;
use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};
use std::io::{self, ErrorKind};

/// Classifies a failed handshake of a client by its error.
pub fn classify_failure(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => classify_alert(*alert),
        Some(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Required since TLS 1.2, and checked before the version.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ))
        | Some(Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion)) => Refusal::TlsVersion,
        Some(Error::PeerIncompatible(_)) => Refusal::TlsAlgorithms,
        Some(Error::InvalidMessage(_)) => Refusal::ClearOnTlsPort,
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => Refusal::ClientCertificate,
        Some(_) => Refusal::TlsHandshake,
        None => match error.kind() {
            ErrorKind::TimedOut => Refusal::TlsTimeout,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Refusal::TlsAborted,
            _ => Refusal::TlsHandshake,
        },
    }
}

/// Classifies an alert that the client sent (RFC 8446 section 6.2).
fn classify_alert(alert: AlertDescription) -> Refusal {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        // An invalid signature: the client trusts another CA of the same name.
        | AlertDescription::DecryptError
        | AlertDescription::UnrecognisedName => Refusal::CertificateDistrusted,
        AlertDescription::ProtocolVersion => Refusal::TlsVersion,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Refusal::TlsAlgorithms,
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => Refusal::TlsAborted,
        _ => Refusal::TlsHandshake,
    }
}
