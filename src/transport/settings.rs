use super::breaker;
use crate::provider::Provider;
use crate::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// One upstream, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in trails, metrics and the webhook path.
    pub name: String,
    /// Whose words and stamps it needs.
    pub provider: Provider,
    /// The sending domain at the provider.
    pub domain: Option<String>,
    /// Host to connect to; the certificate must carry this name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// An extra trust anchor (PEM) beside the well-known ones.
    pub ca_file: Option<PathBuf>,
    /// Login, where the upstream asks for one.
    pub login: Option<Login>,
    /// Connections at once. Default 20, 1 to 1000.
    pub connections: usize,
    /// How commands are grouped. Default full.
    pub pipelining: Pipelining,
    /// A connection that carried nothing for so long is closed. Default 60 s, 1 s to 1 h.
    pub idle_timeout: Duration,
    /// Messages after which a connection is closed. Default 1000, 1 to 1,000,000.
    pub messages_per_connection: u32,
    /// When the upstream is left alone.
    pub breaker: breaker::Settings,
}

/// User and password for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// How a connection to an upstream is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// STARTTLS, never without.
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// None: loopback and tests only.
    None,
}

/// How commands are grouped (RFC 2920), where the upstream offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipelining {
    /// The next message's MAIL, RCPT and DATA ride behind this one's final dot: one round trip a message.
    Full,
    /// MAIL, RCPT and DATA together: two round trips.
    Group,
    /// One command at a time.
    Off,
}
