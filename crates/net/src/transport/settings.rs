use crate::transport::circuit_breaker;
use crate::transport::quota::QuotaLimit;
use mailtrail_mail::{Rate, Secret};
use mailtrail_trail::provider::Provider;
use reqwest::Url;
use std::path::PathBuf;
use std::time::Duration;

/// One upstream, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in trails, metrics and the webhook path.
    pub name: String,
    /// Provider, which determines replies and stamps.
    pub provider: Provider,
    /// The sending domain at the provider.
    pub domain: Option<String>,
    /// Host to connect to; the certificate must carry this name.
    pub host: String,
    /// TCP port of the server.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// CA certificates (PEM) that are trusted in addition to the public ones.
    pub ca_file: Option<PathBuf>,
    /// Login, if the server requires one.
    pub login: Option<Login>,
    /// How messages go over HTTP; `None`: over SMTP. Without SMTP its host, port, protection, login, pipelining and
    /// messages a connection mean nothing.
    pub api: Option<Api>,
    /// Connections at once. Default 20, 1 to 1000.
    pub connections: usize,
    /// How commands are grouped. Default full.
    pub pipelining: Pipelining,
    /// Time after which an unused connection is closed. Default: 60 s; range 1 s..=1 h.
    pub idle_timeout: Duration,
    /// Age at which a connection is closed, between two messages. Default 10 min, 10 s to 1 day.
    pub connection_age: Duration,
    /// Messages after which a connection is closed. Default 1000, 1 to 1,000,000.
    pub messages_per_connection: u32,
    /// How fast it may be sent mail, if that is bounded.
    pub rate: Option<Rate>,
    /// What its plan allows, if it has one.
    pub quota_limit: Option<QuotaLimit>,
    /// When the upstream is left alone.
    pub breaker: circuit_breaker::BreakerSettings,
    /// How long its answers may take.
    pub timeouts: Timeouts,
}

/// Timeouts of an upstream. RFC 5321 section 4.5.3.2 recommends 5 minutes and more per command; a healthy submission
/// server replies within seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, whichever of its addresses takes it, and for a TLS handshake. 30 s.
    pub connect: Duration,
    /// For the greeting, and for a command. 60 s.
    pub command: Duration,
    /// For DATA. 120 s.
    pub data: Duration,
    /// For taking a part of the message (section 4.5.3.2.5): one of any size may take as long as it moves. 180 s.
    pub data_block: Duration,
    /// For the end of data. 600 s.
    pub end_of_data: Duration,
    /// After which an answer is long in coming, and the connection counts as stuck. 30 s.
    pub stuck_after: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            command: Duration::from_secs(60),
            data: Duration::from_secs(120),
            data_block: Duration::from_secs(180),
            end_of_data: Duration::from_secs(600),
            stuck_after: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// The host that mail goes to, over SMTP or HTTP.
    pub fn destination_host(&self) -> &str {
        match &self.api {
            Some(api) => api.base_url.host_str().unwrap_or_default().trim_matches(['[', ']']),
            None => &self.host,
        }
    }
}

/// User and password for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User name of the login.
    pub username: String,
    /// Password of the login.
    pub password: Secret,
}

/// An upstream's HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Where it begins: scheme, host, port.
    pub base_url: Url,
    /// Sending domain.
    pub domain: String,
    /// The account's key, or better the domain's sending key, which may do nothing else.
    pub key: Secret,
}

/// How a connection to an upstream is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// STARTTLS, required.
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// None: loopback and tests only.
    None,
}

/// How commands are grouped (RFC 2920), where the upstream offers it; the boldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pipelining {
    /// MAIL, RCPT and DATA of the next message follow the final dot of this one: one round trip per message.
    Full,
    /// MAIL, RCPT and DATA together: two round trips.
    Group,
    /// One command at a time.
    Off,
}
