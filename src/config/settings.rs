use crate::config::diagnostic::Diagnostic;
use crate::logging::{AddressRedaction, LogFormat};
use mailtrail_mail::Secret;
use mailtrail_net::{provider_api, transport};
use mailtrail_relay::alarms::AlarmNotifications;
use mailtrail_relay::monitoring::{heartbeat, thresholds};
use mailtrail_relay::{admin, inbound, queue, reconcile, sink, submission, webhook};
use mailtrail_smtp;
use mailtrail_store::Retention;
use mailtrail_trail::provider::brevo::WebhookAuth;
use mailtrail_trail::{Routing, suppression};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tracing::Level;

/// The complete configuration.
#[derive(Clone)]
pub struct Config {
    /// Name of the relay in the SMTP greeting, EHLO and Received.
    pub hostname: String,
    /// Directory of the store and other persistent files. Default: `/var/lib/mailtrail`.
    pub data_dir: PathBuf,
    /// SMTP listeners; at least one.
    pub listeners: Vec<submission::Listener>,
    /// Certificate of the listeners. Without it, a self-signed pair is created under `data_dir`.
    pub certificate: Option<CertificateFiles>,
    /// Users of the listeners.
    pub users: Vec<submission::User>,
    /// Limits of an SMTP session.
    pub limits: mailtrail_smtp::Limits,
    /// Limits on failed logins and on the message rate of a client.
    pub login_policy: submission::LoginPolicy,
    /// Upstreams in the order of preference; at least one.
    pub upstreams: Vec<Upstream>,
    /// Choice of upstream and priority of messages.
    pub routing: Routing,
    /// Address of the webhook listener, if there is one.
    pub http_address: Option<SocketAddr>,
    /// TLS of the webhook listener. Default: none.
    pub http_tls: HttpTls,
    /// Trusted proxies and connection limits of the webhook listener.
    pub webhook_settings: webhook::WebhookSettings,
    /// Senders of webhooks besides the upstreams' providers.
    pub sources: Vec<webhook::WebhookSource>,
    /// Administration API.
    pub admin: AdminSettings,
    /// Program log.
    pub log: LogSettings,
    /// Retention of messages, bodies and events.
    pub retention: Retention,
    /// Whether senders receive DSNs.
    pub send_dsns: bool,
    /// Window of the duplicate check; `None` if it is off.
    pub dedup_window: Option<Duration>,
    /// Rules of the suppression list.
    pub suppression: suppression::SuppressionSettings,
    /// Interval of the synchronization with the providers' lists; `None` if it is off. Default: 24 h.
    pub suppression_sync_interval: Option<Duration>,
    /// Periodic test message, if configured.
    pub heartbeat: Option<heartbeat::HeartbeatSettings>,
    /// Receivers of events.
    pub sinks: Vec<sink::SinkSettings>,
    /// Rules for inbound messages.
    pub inbound_rules: webhook::InboundRules,
    /// Targets of inbound messages.
    pub inbound_targets: Vec<inbound::TargetSettings>,
    /// Thresholds of the alarms.
    pub alarm_thresholds: thresholds::Thresholds,
    /// Notifications about alarms.
    pub alarm_notifications: AlarmNotifications,
    /// Warnings about valid settings.
    pub warnings: Vec<Diagnostic>,
    /// Files from which secrets were read.
    pub secret_files: Vec<PathBuf>,
}

impl Config {
    /// File descriptors in use when every listener and upstream has its maximum number of connections.
    pub fn required_descriptors(&self) -> u64 {
        let upstreams: usize = self.upstreams.iter().map(|upstream| upstream.transport.connections).sum();
        let webhooks = self
            .http_address
            .map_or(0, |_| self.webhook_settings.connections + webhook::OVERFLOW_CONNECTIONS);
        let page = self.admin.address.map_or(0, |_| admin::MAX_TCP_CONNECTIONS);
        let connections =
            self.limits.max_connections + upstreams + webhooks + page + admin::MAX_SOCKET_CONNECTIONS;
        connections as u64 + RESERVED_DESCRIPTORS
    }
}

/// Displayed as TOML, because a derived form would show password hashes.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

/// PEM files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate, followed by its chain.
    pub certificate: PathBuf,
    /// Private key, PKCS #8, PKCS #1 or SEC 1.
    pub private_key: PathBuf,
}

/// TLS of the webhook listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HttpTls {
    /// Plain HTTP, for a reverse proxy in front.
    #[default]
    None,
    /// TLS from the first byte, with this certificate or the listeners'.
    Implicit(Option<CertificateFiles>),
}

impl HttpTls {
    /// Scheme of the listener's URLs.
    pub fn url_scheme(&self) -> &'static str {
        match self {
            Self::None => "http",
            Self::Implicit(_) => "https",
        }
    }
}

/// An upstream with its retry policy and API access.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Connection settings.
    pub transport: transport::Settings,
    /// Retry schedule of messages.
    pub retry: queue::RetryPolicy,
    /// Access to the provider's API, if a key is configured.
    pub provider_api: Option<provider_api::ProviderApiSettings>,
    /// Polling of events; `None` if it is off.
    pub reconcile: Option<reconcile::PollSettings>,
    /// Mailgun's signing keys: none, one, or two during a key change.
    pub webhook_signing_keys: Vec<Secret>,
    /// Credentials of Brevo's webhooks.
    pub webhook_auth: WebhookAuth,
}

/// Settings of the administration API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Path of the Unix socket. Default: `admin.sock` in the data directory.
    pub socket: PathBuf,
    /// Address of the metrics and, with a token, of the API and the web page.
    pub address: Option<SocketAddr>,
    /// Bearer token of operators at `address`; without one there is no API.
    pub token: Option<Secret>,
    /// Accepted names in the Host header besides loopback, in lower case.
    pub hosts: Vec<String>,
}

/// Settings of the program log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Lowest level that is written. Default: info.
    pub level: Level,
    /// Format of the lines. Default: text.
    pub format: LogFormat,
    /// Redaction of mail addresses. Default: none.
    pub address_redaction: AddressRedaction,
    /// Socket of journald. Default: `/run/systemd/journal/socket`.
    pub journald_socket: PathBuf,
}

impl Default for LogSettings {
    fn default() -> Self {
        let journald_socket = "/run/systemd/journal/socket".into();
        Self {
            level: Level::INFO,
            format: LogFormat::Text,
            address_redaction: AddressRedaction::Full,
            journald_socket,
        }
    }
}

/// File descriptors besides connections: the store, listeners, message files.
const RESERVED_DESCRIPTORS: u64 = 256;
