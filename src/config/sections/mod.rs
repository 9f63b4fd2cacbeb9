//! The sections that exist once, and those that this version only checks.

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

pub(crate) use routing::show_field;
pub(crate) use suppression::{NEVER, OFF};
pub(crate) use upstream::Ourselves;

use crate::config::keywords::{HTTP_TLS, LEVELS, LOG_ADDRESSES, LOG_FORMATS, REPORTS};
use crate::config::section::Section;
use crate::config::settings::{Admin, CertificateFiles, HttpTls, Log};
use crate::config::uniqueness::Claims;
use crate::config::units;
use crate::config::validators::is_host;
use mailtrail_relay::monitoring::heartbeat;
use mailtrail_relay::sink::{Kind, Settings as Sink};
use mailtrail_relay::submission::Policy;
use mailtrail_relay::webhook;
use mailtrail_smtp::Limits;
use mailtrail_store::Retention;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[server]`: our name and where we keep things.
pub(crate) fn server(root: &mut Section<'_>) -> (String, PathBuf) {
    let mut section = root.table("server");
    section.require("hostname");
    let hostname = section.parsed("hostname", "a host name", |text| is_host(text).then(|| text.to_owned()));
    let data_dir = section.path_of("data_dir").unwrap_or_else(|| "/var/lib/mailtrail".into());
    section.finish();
    (hostname.unwrap_or_default(), data_dir)
}

/// `[tls]`.
pub(crate) fn certificate(root: &mut Section<'_>) -> Option<CertificateFiles> {
    let mut section = root.table("tls");
    let files = pair(&mut section);
    section.finish();
    files
}

/// `certificate` and `private_key`, both or neither.
fn pair(section: &mut Section<'_>) -> Option<CertificateFiles> {
    for (key, other) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if section.has(key) && !section.has(other) {
            section.fault(key, format!("{other} is missing; both or neither"));
        }
    }
    let files = section.file("certificate").zip(section.file("private_key"));
    files.map(|(certificate, private_key)| CertificateFiles { certificate, private_key })
}

/// `[limits]`.
pub(crate) fn limits(root: &mut Section<'_>) -> (Limits, Policy) {
    let mut section = root.table("limits");
    let usual = Limits::default();
    let timeout = Duration::from_secs(10)..=DAY;
    let limits = Limits {
        message_size: section.size("message_size", 1 << 10..=1 << 30).unwrap_or(usual.message_size),
        recipients: section.integer("recipients", 1..=10_000).unwrap_or(usual.recipients),
        connections: section.integer("connections", 1..=100_000).unwrap_or(usual.connections),
        connections_per_ip: section
            .integer("connections_per_ip", 1..=100_000)
            .unwrap_or(usual.connections_per_ip),
        command_timeout: section
            .duration("command_timeout", timeout.clone())
            .unwrap_or(usual.command_timeout),
        data_timeout: section.duration("data_timeout", timeout).unwrap_or(usual.data_timeout),
        message_timeout: section.duration("message_timeout", MINUTE..=DAY).unwrap_or(usual.message_timeout),
        session_timeout: section
            .duration("session_timeout", MINUTE..=DAY * 30)
            .unwrap_or(usual.session_timeout),
    };
    let policy = policy(&mut section);
    section.finish();
    (limits, policy)
}

fn policy(section: &mut Section<'_>) -> Policy {
    let usual = Policy::default();
    let span = Duration::from_secs(1)..=DAY;
    Policy {
        login_failures: section.integer("login_failures", 0..=10_000).unwrap_or(usual.login_failures),
        login_window: section.duration("login_window", span.clone()).unwrap_or(usual.login_window),
        login_lockout: section.duration("login_lockout", span).unwrap_or(usual.login_lockout),
        rate_per_ip: section.parsed("rate_per_ip", units::A_RATE, units::rate),
    }
}

/// `[http]`.
pub(crate) fn http(
    root: &mut Section<'_>,
    claims: &mut Claims,
) -> (Option<SocketAddr>, HttpTls, webhook::Settings) {
    let mut section = root.table("http");
    let address = address(&mut section, claims);
    let speaks_tls = section.one_of("tls", &HTTP_TLS).unwrap_or(false);
    let files = pair(&mut section);
    if files.is_some() && !speaks_tls {
        section.warn("certificate", "is of no use with tls = \"none\"");
    }
    let tls = if speaks_tls { HttpTls::Implicit(files) } else { HttpTls::None };
    let usual = webhook::Settings::default();
    let proxies = section.list("proxies", "a network such as \"10.0.0.0/8\"", listener::network);
    let settings = webhook::Settings {
        proxies: proxies.unwrap_or(usual.proxies),
        connections: section.integer("connections", 1..=100_000).unwrap_or(usual.connections),
        connections_per_ip: section
            .integer("connections_per_ip", 1..=100_000)
            .unwrap_or(usual.connections_per_ip),
    };
    section.finish();
    (address, tls, settings)
}

/// `[admin]`.
pub(crate) fn admin(root: &mut Section<'_>, data_dir: &Path, claims: &mut Claims) -> Admin {
    let mut section = root.table("admin");
    let socket = section.path_of("socket").unwrap_or_else(|| data_dir.join("admin.sock"));
    let address = address(&mut section, claims);
    let token = section.secret("token");
    if token.as_ref().is_some_and(|token| token.reveal().len() < SHORTEST_TOKEN) {
        let key = if section.has("token_file") { "token_file" } else { "token" };
        section.warn(
            key,
            format!("is shorter than {SHORTEST_TOKEN} characters; `openssl rand -hex 32` makes a good one"),
        );
    }
    let host = |text: &str| is_host(text).then(|| text.to_ascii_lowercase());
    let hosts = section.list("hosts", "a host name or an address without a port", host).unwrap_or_default();
    if address.is_some_and(|address| !address.ip().is_loopback()) {
        let risk = match &token {
            Some(_) => "the token and what is asked cross the network in clear",
            None => "everyone who reaches it reads the figures",
        };
        section.warn("address", format!("can be reached from other machines; {risk}"));
    }
    if address.is_none() && token.is_some() {
        section.warn("token", "is of no use without an address; the socket asks for none");
    }
    section.finish();
    Admin { socket, address, token, hosts }
}

/// The `address` of a section that listens.
pub(crate) fn address(section: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let example = "an address with a port, such as \"127.0.0.1:2525\"";
    let address = section.parsed("address", example, |text| text.parse().ok())?;
    claims.address(section, "address", address);
    Some(address)
}

/// `[log]`.
pub(crate) fn log(root: &mut Section<'_>) -> Log {
    let mut section = root.table("log");
    let usual = Log::default();
    let log = Log {
        level: section.one_of("level", &LEVELS).unwrap_or(usual.level),
        format: section.one_of("format", &LOG_FORMATS).unwrap_or(usual.format),
        addresses: section.one_of("addresses", &LOG_ADDRESSES).unwrap_or(usual.addresses),
        journal: section.path_of("journal").unwrap_or(usual.journal),
    };
    section.finish();
    log
}

/// `[retention]`: how long things are kept.
pub(crate) fn retention(root: &mut Section<'_>) -> Retention {
    let usual = Retention::default();
    let mut section = root.table("retention");
    let mut kept = |key| section.duration(key, Duration::ZERO..=DAY * 3650);
    let retention = Retention {
        ledger: kept("ledger").unwrap_or(usual.ledger),
        bodies: kept("bodies").unwrap_or(usual.bodies),
        events: kept("events").unwrap_or(usual.events),
    };
    section.finish();
    retention
}

/// `[reports]`: whether senders hear of failures. Odoo, where a sink shows them, would count a bounce twice.
pub(crate) fn reports(root: &mut Section<'_>, sinks: &[Sink]) -> bool {
    let mut section = root.table("reports");
    let failures = section.one_of("failures", &REPORTS);
    section.finish();
    failures.unwrap_or(!sinks.iter().any(|sink| matches!(sink.kind, Kind::Odoo(_))))
}

/// `[heartbeat]`: the test mail, if there is to be one.
pub(crate) fn heartbeat(root: &mut Section<'_>) -> Option<heartbeat::Settings> {
    if !root.has("heartbeat") {
        return None;
    }
    let mut section = root.table("heartbeat");
    let mut mailbox = |key| section.parsed(key, "a mail address", |text| text.parse().ok());
    let (to, from) = (mailbox("to"), mailbox("from"));
    let every = section.duration("every", MINUTE..=DAY * 7).unwrap_or(MINUTE * 60);
    let patience = section.duration("patience", Duration::from_secs(1)..=DAY).unwrap_or(MINUTE * 15);
    for (key, given) in [("to", to.is_some()), ("from", from.is_some())] {
        if !given && section.is_sound() {
            section.require(key);
        }
    }
    section.finish();
    Some(heartbeat::Settings { to: to?, from: from?, every, patience })
}

/// `[duplicates]`: how long a message is looked for among those before it.
pub(crate) fn duplicates(root: &mut Section<'_>) -> Option<Duration> {
    let mut section = root.table("duplicates");
    let window = section.parsed("window", "\"off\" or a duration from \"1s\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (Duration::from_secs(1)..=DAY * 30).contains(duration);
        if text == "off" { Some(None) } else { units::duration(text).filter(allowed).map(Some) }
    });
    section.finish();
    window.flatten()
}

/// Characters: what nobody guesses.
const SHORTEST_TOKEN: usize = 16;
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// 24 hours.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
