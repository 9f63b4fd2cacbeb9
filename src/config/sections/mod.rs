//! Readers of the sections: one module for each array of tables, the single sections here.

pub(crate) mod alarms;
mod cleanup;
pub(crate) mod inbound;
pub(crate) mod listener;
pub(crate) mod odoo;
mod provider_api;
pub(crate) mod routing;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod suppression;
pub(crate) mod upstream;
pub(crate) mod user;
mod webhook_endpoint;

pub(crate) use routing::format_header_match;
pub(crate) use suppression::{NEVER_KEYWORD, OFF_KEYWORD};
pub(crate) use upstream::OwnEndpoints;

use crate::config::keywords::{DSN_RECIPIENTS, HTTP_TLS_MODES, LOG_ADDRESS_MODES, LOG_FORMATS, LOG_LEVELS};
use crate::config::section::Section;
use crate::config::settings::{AdminSettings, CertificateFiles, HttpTls, LogSettings};
use crate::config::unique_names::UniqueNames;
use crate::config::units::{self, ONE_DAY, ONE_MINUTE};
use crate::config::validators::is_hostname;
use mailtrail_relay::monitoring::heartbeat;
use mailtrail_relay::sink::{SinkKind, SinkSettings as Sink};
use mailtrail_relay::submission::LoginPolicy;
use mailtrail_relay::webhook;
use mailtrail_smtp::Limits;
use mailtrail_store::Retention;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads `[server]`: host name and data directory.
pub(crate) fn read_server(root: &mut Section<'_>) -> (String, PathBuf) {
    let mut section = root.subsection("server");
    section.require_key("hostname");
    let hostname =
        section.parse("hostname", "a host name", |text| is_hostname(text).then(|| text.to_owned()));
    let data_dir = section.file_path("data_dir").unwrap_or_else(|| "/var/lib/mailtrail".into());
    section.reject_unknown();
    (hostname.unwrap_or_default(), data_dir)
}

/// Reads `[tls]`: the listeners' certificate.
pub(crate) fn read_tls(root: &mut Section<'_>) -> Option<CertificateFiles> {
    let mut section = root.subsection("tls");
    let files = read_certificate_files(&mut section);
    section.reject_unknown();
    files
}

/// Reads `certificate` and `private_key`, both or neither.
fn read_certificate_files(section: &mut Section<'_>) -> Option<CertificateFiles> {
    for (key, other) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if section.contains_key(key) && !section.contains_key(other) {
            section.add_error(key, format!("{other} is missing; both or neither"));
        }
    }
    let files = section.existing_file("certificate").zip(section.existing_file("private_key"));
    files.map(|(certificate, private_key)| CertificateFiles { certificate, private_key })
}

/// Reads `[limits]`: limits of sessions and logins.
pub(crate) fn read_limits(root: &mut Section<'_>) -> (Limits, LoginPolicy) {
    let mut section = root.subsection("limits");
    let usual = Limits::default();
    let timeout = Duration::from_secs(10)..=ONE_DAY;
    let limits = Limits {
        max_message_bytes: section.size("message_size", 1 << 10..=1 << 30).unwrap_or(usual.max_message_bytes),
        max_recipients: section.integer("recipients", 1..=10_000).unwrap_or(usual.max_recipients),
        max_connections: section.integer("connections", 1..=100_000).unwrap_or(usual.max_connections),
        max_connections_per_ip: section
            .integer("connections_per_ip", 1..=100_000)
            .unwrap_or(usual.max_connections_per_ip),
        command_timeout: section
            .duration("command_timeout", timeout.clone())
            .unwrap_or(usual.command_timeout),
        data_timeout: section.duration("data_timeout", timeout).unwrap_or(usual.data_timeout),
        message_timeout: section
            .duration("message_timeout", ONE_MINUTE..=ONE_DAY)
            .unwrap_or(usual.message_timeout),
        session_timeout: section
            .duration("session_timeout", ONE_MINUTE..=ONE_DAY * 30)
            .unwrap_or(usual.session_timeout),
    };
    let policy = read_login_policy(&mut section);
    section.reject_unknown();
    (limits, policy)
}

fn read_login_policy(section: &mut Section<'_>) -> LoginPolicy {
    let usual = LoginPolicy::default();
    let span = Duration::from_secs(1)..=ONE_DAY;
    LoginPolicy {
        login_failures: section.integer("login_failures", 0..=10_000).unwrap_or(usual.login_failures),
        login_window: section.duration("login_window", span.clone()).unwrap_or(usual.login_window),
        login_lockout: section.duration("login_lockout", span).unwrap_or(usual.login_lockout),
        rate_per_ip: section.parse("rate_per_ip", units::EXPECTED_RATE, units::parse_rate),
    }
}

/// Reads `[http]`: the webhook listener.
pub(crate) fn read_http(
    root: &mut Section<'_>,
    claims: &mut UniqueNames,
) -> (Option<SocketAddr>, HttpTls, webhook::WebhookSettings) {
    let mut section = root.subsection("http");
    let address = claims.read_listen_address(&mut section);
    let speaks_tls = section.keyword("tls", &HTTP_TLS_MODES).unwrap_or(false);
    let files = read_certificate_files(&mut section);
    if files.is_some() && !speaks_tls {
        section.add_warning("certificate", "is of no use with tls = \"none\"");
    }
    let tls = if speaks_tls { HttpTls::Implicit(files) } else { HttpTls::None };
    let usual = webhook::WebhookSettings::default();
    let proxies = section.list("proxies", "a network such as \"10.0.0.0/8\"", units::parse_network);
    let settings = webhook::WebhookSettings {
        proxies: proxies.unwrap_or(usual.proxies),
        connections: section.integer("connections", 1..=100_000).unwrap_or(usual.connections),
        connections_per_ip: section
            .integer("connections_per_ip", 1..=100_000)
            .unwrap_or(usual.connections_per_ip),
    };
    section.reject_unknown();
    (address, tls, settings)
}

/// Reads `[admin]`: the administration API.
pub(crate) fn read_admin(root: &mut Section<'_>, data_dir: &Path, claims: &mut UniqueNames) -> AdminSettings {
    let mut section = root.subsection("admin");
    let socket = section.file_path("socket").unwrap_or_else(|| data_dir.join("admin.sock"));
    let address = claims.read_listen_address(&mut section);
    let token = section.secret("token");
    if token.as_ref().is_some_and(|token| token.expose().len() < MIN_TOKEN_CHARS) {
        let key = if section.contains_key("token_file") { "token_file" } else { "token" };
        section.add_warning(
            key,
            format!("is shorter than {MIN_TOKEN_CHARS} characters; `openssl rand -hex 32` makes a good one"),
        );
    }
    let host = |text: &str| is_hostname(text).then(|| text.to_ascii_lowercase());
    let hosts = section.list("hosts", "a host name or an address without a port", host).unwrap_or_default();
    if address.is_some_and(|address| !address.ip().is_loopback()) {
        let risk = match &token {
            Some(_) => "token and data cross the network unencrypted",
            None => "the metrics are public there",
        };
        section.add_warning("address", format!("can be reached from other machines; {risk}"));
    }
    if address.is_none() && token.is_some() {
        section.add_warning("token", "is of no use without an address; the socket asks for none");
    }
    section.reject_unknown();
    AdminSettings { socket, address, token, hosts }
}

/// Reads `[log]`: level, format and redaction.
pub(crate) fn read_log(root: &mut Section<'_>) -> LogSettings {
    let mut section = root.subsection("log");
    let usual = LogSettings::default();
    let log = LogSettings {
        level: section.keyword("level", &LOG_LEVELS).unwrap_or(usual.level),
        format: section.keyword("format", &LOG_FORMATS).unwrap_or(usual.format),
        address_redaction: section
            .keyword("addresses", &LOG_ADDRESS_MODES)
            .unwrap_or(usual.address_redaction),
        journald_socket: section.file_path("journal").unwrap_or(usual.journald_socket),
    };
    section.reject_unknown();
    log
}

/// Reads `[retention]`: retention of messages, bodies and events.
pub(crate) fn read_retention(root: &mut Section<'_>) -> Retention {
    let usual = Retention::default();
    let mut section = root.subsection("retention");
    let mut kept = |key| section.duration(key, Duration::ZERO..=ONE_DAY * 3650);
    let retention = Retention {
        ledger: kept("ledger").unwrap_or(usual.ledger),
        bodies: kept("bodies").unwrap_or(usual.bodies),
        events: kept("events").unwrap_or(usual.events),
    };
    section.reject_unknown();
    retention
}

/// Reads `[reports]`: whether senders receive DSNs. Off by default with an Odoo sink, because Odoo would count a bounce
/// twice.
pub(crate) fn read_reports(root: &mut Section<'_>, sinks: &[Sink]) -> bool {
    let mut section = root.subsection("reports");
    let failures = section.keyword("failures", &DSN_RECIPIENTS);
    section.reject_unknown();
    failures.unwrap_or(!sinks.iter().any(|sink| matches!(sink.kind, SinkKind::Odoo(_))))
}

/// Reads `[heartbeat]`: the periodic test message, if configured.
pub(crate) fn read_heartbeat(root: &mut Section<'_>) -> Option<heartbeat::HeartbeatSettings> {
    if !root.contains_key("heartbeat") {
        return None;
    }
    let mut section = root.subsection("heartbeat");
    let mut mailbox = |key| section.parse(key, "a mail address", |text| text.parse().ok());
    let (to, from) = (mailbox("to"), mailbox("from"));
    let interval = section.duration("every", ONE_MINUTE..=ONE_DAY * 7).unwrap_or(ONE_MINUTE * 60);
    let timeout = section.duration("patience", Duration::from_secs(1)..=ONE_DAY).unwrap_or(ONE_MINUTE * 15);
    for (key, given) in [("to", to.is_some()), ("from", from.is_some())] {
        if !given && section.is_valid() {
            section.require_key(key);
        }
    }
    section.reject_unknown();
    Some(heartbeat::HeartbeatSettings { recipient: to?, sender: from?, interval, timeout })
}

/// Reads `[duplicates]`: the window of the duplicate check.
pub(crate) fn read_duplicates(root: &mut Section<'_>) -> Option<Duration> {
    let mut section = root.subsection("duplicates");
    let window = section.parse("window", "\"off\" or a duration from \"1s\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (Duration::from_secs(1)..=ONE_DAY * 30).contains(duration);
        if text == "off" { Some(None) } else { units::parse_duration(text).filter(allowed).map(Some) }
    });
    section.reject_unknown();
    window.flatten()
}

/// In characters; shorter tokens can be guessed.
const MIN_TOKEN_CHARS: usize = 16;
