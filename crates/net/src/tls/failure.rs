use crate::refusals::Refusal;
use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};
use std::io::{self, ErrorKind};

/// Why a handshake of a client failed, as far as its error says.
pub fn classify_failure(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => classify_alert(*alert),
        Some(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Of TLS 1.2 and newer; asked for before the version is looked at.
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

/// What a client says about itself (RFC 8446 section 6.2).
fn classify_alert(alert: AlertDescription) -> Refusal {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        // A signature is wrong: the client trusts another authority of the same name.
        | AlertDescription::DecryptError
        | AlertDescription::UnrecognisedName => Refusal::CertificateDistrusted,
        AlertDescription::ProtocolVersion => Refusal::TlsVersion,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Refusal::TlsAlgorithms,
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => Refusal::TlsAborted,
        _ => Refusal::TlsHandshake,
    }
}
