use crate::config::diagnostic::Diagnostic;
use crate::logging::{AddressRedaction, LogFormat};
use mailtrail_mail::Secret;
use mailtrail_net::{provider_api, transport};
use mailtrail_relay::alarms::notifier;
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

/// Everything that an operator decides.
#[derive(Clone)]
pub struct Config {
    /// Our name in greetings, EHLO and Received.
    pub hostname: String,
    /// Where everything that lasts is kept. Default `/var/lib/mailtrail`.
    pub data_dir: PathBuf,
    /// Where clients connect; at least one.
    pub listeners: Vec<submission::Listener>,
    /// The listeners' certificate; without it a self-signed pair is made under `data_dir`.
    pub certificate: Option<CertificateFiles>,
    /// Who may log in.
    pub users: Vec<submission::User>,
    /// What one session may cost.
    pub limits: mailtrail_smtp::Limits,
    /// What holds clients back that guess or send too much.
    pub login_policy: submission::LoginPolicy,
    /// Where mail goes, in the order of preference; at least one.
    pub upstreams: Vec<Upstream>,
    /// Which mail goes where, and which goes first.
    pub routing: Routing,
    /// Where webhooks are received, if anywhere.
    pub http_address: Option<SocketAddr>,
    /// What is spoken there. Default HTTP in clear.
    pub http_tls: HttpTls,
    /// Whom that serves, and how many at once.
    pub webhook_settings: webhook::WebhookSettings,
    /// Who reports besides the upstreams' providers.
    pub sources: Vec<webhook::WebhookSource>,
    /// Where operators ask.
    pub admin: AdminSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// How long things are kept.
    pub retention: Retention,
    /// Whether senders get reports on what failed.
    pub send_dsns: bool,
    /// How long a message is looked for among those before it; `None` when it is not.
    pub dedup_window: Option<Duration>,
    /// Which addresses get no mail.
    pub suppression: suppression::SuppressionSettings,
    /// How often that list and the providers' are brought together; `None` when they are not by themselves. Default 24 h.
    pub suppression_sync_interval: Option<Duration>,
    /// The test mail, if there is one.
    pub heartbeat: Option<heartbeat::HeartbeatSettings>,
    /// Who is told what becomes of the mail.
    pub sinks: Vec<sink::SinkSettings>,
    /// What holds for mail from outside.
    pub inbound_rules: webhook::InboundRules,
    /// Where mail from outside goes.
    pub inbound_targets: Vec<inbound::TargetSettings>,
    /// From where on figures are an alarm.
    pub alarm_thresholds: thresholds::Thresholds,
    /// Who is told of alarms.
    pub alarm_notifications: notifier::AlarmNotifications,
    /// What is allowed, but should be known.
    pub warnings: Vec<Diagnostic>,
    /// The files that secrets were read from.
    pub secret_files: Vec<PathBuf>,
}

impl Config {
    /// Descriptors that are in use when every listener and upstream has as many connections as it may.
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

/// As `show` has it: a derived form would print password hashes.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by its chain.
    pub certificate: PathBuf,
    /// The private key.
    pub private_key: PathBuf,
}

/// Whether the webhook listener speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HttpTls {
    /// It does not: a web server in front of it does.
    #[default]
    None,
    /// From the first byte on, with this certificate, or with the listeners'.
    Implicit(Option<CertificateFiles>),
}

impl HttpTls {
    /// What addresses there begin with.
    pub fn url_scheme(&self) -> &'static str {
        match self {
            Self::None => "http",
            Self::Implicit(_) => "https",
        }
    }
}

/// One upstream and how its mail is retried.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// How it is reached.
    pub transport: transport::Settings,
    /// When a message is tried again.
    pub retry: queue::RetryPolicy,
    /// The account behind it, where its key is known.
    pub provider_api: Option<provider_api::ProviderApiSettings>,
    /// How the account is asked for events; `None`: not at all.
    pub reconcile: Option<reconcile::PollSettings>,
    /// What Mailgun's webhooks are signed with: none, one, or two while the key changes.
    pub webhook_signing_keys: Vec<Secret>,
    /// What Brevo's webhooks prove themselves with.
    pub webhook_auth: WebhookAuth,
}

/// Where operators ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// The unix socket. Default `admin.sock` in the data directory.
    pub socket: PathBuf,
    /// The metrics and, with a token, the API, if anywhere.
    pub address: Option<SocketAddr>,
    /// What an operator proves himself with there; without one there is no API.
    pub token: Option<Secret>,
    /// Names that operators may call this machine by there, in small letters, besides those of loopback.
    pub hosts: Vec<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least important level that is written. Default info.
    pub level: Level,
    /// In which form. Default text.
    pub format: LogFormat,
    /// How mail addresses are written. Default in full.
    pub address_redaction: AddressRedaction,
    /// Where journald listens. Default `/run/systemd/journal/socket`.
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

/// Descriptors in use beside connections: the store's, listeners, what reads messages.
const RESERVED_DESCRIPTORS: u64 = 256;
