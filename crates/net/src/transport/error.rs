use mailtrail_smtp::{Response, ResponseError};
use mailtrail_trail::provider::Provider;
use rustls::CertificateError;
use std::io;
use std::time::Duration;

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection, or it broke.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// No answer in time.
    #[error("no answer to {operation} within {} s", limit.as_secs())]
    Timeout {
        /// Operation that timed out.
        operation: &'static str,
        /// Its timeout.
        limit: Duration,
    },
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server does not speak SMTP.
    #[error("{0}")]
    InvalidResponse(#[from] ResponseError),
    /// The peer refused to serve us.
    #[error("refused at {step}: {response}")]
    Refused {
        /// Step of the session.
        step: &'static str,
        /// Response of the server.
        response: Response,
    },
    /// Unsolicited response, usually a 421.
    #[error("the server said unasked: {0}")]
    UnsolicitedReply(Response),
    /// Responses that do not match the commands.
    #[error("the server's replies are out of step: {0}")]
    Desynchronized(Response),
    /// The login is wrong.
    #[error("the login was refused: {response}; {remedy}", remedy = login_remedy(response, *provider))]
    LoginRefused {
        /// Response of the server.
        response: Response,
        /// Provider of the server.
        provider: Provider,
    },
    /// TLS is required but not available.
    #[error(
        "the server does not offer STARTTLS; nothing is sent in clear: check host, port and the path to it"
    )]
    NoStartTls,
    /// The certificate does not prove the server's identity.
    #[error(
        "the server's certificate cannot be trusted: {0}; nothing is sent: check host and ca_file of this upstream, \
         and the path to it"
    )]
    Certificate(rustls::Error),
    /// No mechanism that we have.
    #[error("the server offers neither AUTH PLAIN nor AUTH LOGIN")]
    NoAuthMechanism,
    /// The host's name is no name.
    #[error("{0} is not a host name that a certificate can carry")]
    InvalidHostName(String),
}

/// Remedy for a rejected login. Brevo's 525 concerns our IP address, not the credentials.
fn login_remedy(refusal: &Response, provider: Provider) -> &'static str {
    match (refusal.code, provider) {
        (525, _) => {
            "allow the address that this machine connects from, its IPv6 one as well, in the provider's list of \
             authorised addresses"
        }
        // Mailgun's regions have separate accounts.
        (_, Provider::Mailgun) => {
            "check username and password of this upstream, and its region: a domain of Mailgun's EU region needs \
             region = \"eu\", one of the US region \"us\""
        }
        _ => "check username and password of this upstream",
    }
}

impl TransportError {
    /// Returns whether only an operator can fix it; until then nothing is sent.
    pub fn needs_operator(&self) -> bool {
        match self {
            Self::LoginRefused { .. }
            | Self::NoStartTls
            | Self::Certificate(_)
            | Self::NoAuthMechanism
            | Self::InvalidHostName(_) => true,
            Self::Io(_)
            | Self::Timeout { .. }
            | Self::Closed
            | Self::InvalidResponse(_)
            | Self::Refused { .. }
            | Self::UnsolicitedReply(_)
            | Self::Desynchronized(_) => false,
        }
    }

    /// Whether the answers before it can be trusted: they came in their order.
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Timeout { .. } | Self::Closed | Self::InvalidResponse(_))
    }
}

/// A connection that ends is one that was closed, whether or not TLS took leave.
impl From<io::Error> for TransportError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => match error.downcast::<rustls::Error>() {
                Ok(rustls::Error::InvalidCertificate(why)) => {
                    Self::Certificate(rustls::Error::InvalidCertificate(without_times(why)))
                }
                Ok(other) => Self::Io(io::Error::other(other)),
                Err(error) => Self::Io(error),
            },
        }
    }
}

/// Removes times, so that the same error always has the same text.
fn without_times(why: CertificateError) -> CertificateError {
    match why {
        CertificateError::ExpiredContext { .. } => CertificateError::Expired,
        CertificateError::NotValidYetContext { .. } => CertificateError::NotValidYet,
        why => why,
    }
}

/// How the sending of a message failed.
#[derive(Debug)]
pub enum DataError {
    /// The message itself could not be read to its end: the upstream cannot have taken it.
    BodyUnreadable(io::Error),
    /// Before the final dot: the upstream cannot have taken it.
    BeforeEnd(TransportError),
    /// Rejected before the final dot: not accepted, and the connection is not reusable.
    Rejected(Response),
    /// Failed after the final dot: acceptance unknown.
    AfterEnd(TransportError),
}
