//! The sections that exist once, and those that this version only checks.

use super::claims::Claims;
use super::listener;
use super::names::is_host;
use super::quantity;
use super::reader::Section;
use super::settings::{Admin, CertificateFiles, Log};
use super::words::{LEVELS, LOG_ADDRESSES, LOG_FORMATS, REPORTS};
use crate::heartbeat;
use crate::monitor::Thresholds;
use crate::smtp::Limits;
use crate::store::Retention;
use crate::submission::Policy;
use crate::webhook;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[server]`: our name and where we keep things.
pub(super) fn server(root: &mut Section<'_>) -> (String, PathBuf) {
    let mut section = root.table("server");
    section.require("hostname");
    let hostname = section.parsed("hostname", "a host name", |text| is_host(text).then(|| text.to_owned()));
    let data_dir = section.path_of("data_dir").unwrap_or_else(|| "/var/lib/mailtrail".into());
    section.finish();
    (hostname.unwrap_or_default(), data_dir)
}

/// `[tls]`.
pub(super) fn certificate(root: &mut Section<'_>) -> Option<CertificateFiles> {
    let mut section = root.table("tls");
    for (key, other) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if section.has(key) && !section.has(other) {
            section.fault(key, format!("{other} is missing; both or neither"));
        }
    }
    let files = section.file("certificate").zip(section.file("private_key"));
    section.finish();
    files.map(|(certificate, private_key)| CertificateFiles { certificate, private_key })
}

/// `[limits]`.
pub(super) fn limits(root: &mut Section<'_>) -> (Limits, Policy) {
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
        rate_per_ip: section.parsed("rate_per_ip", quantity::A_RATE, quantity::rate),
    }
}

/// `[http]`.
pub(super) fn http(root: &mut Section<'_>, claims: &mut Claims) -> (Option<SocketAddr>, webhook::Settings) {
    let mut section = root.table("http");
    let address = address(&mut section, claims);
    let usual = webhook::Settings::default();
    let proxies = section.list("proxies", "a network such as \"10.0.0.0/8\"", listener::network);
    let settings = webhook::Settings {
        proxies: proxies.unwrap_or(usual.proxies),
        connections: section.integer("connections", 1..=100_000).unwrap_or(usual.connections),
    };
    section.finish();
    (address, settings)
}

/// `[admin]`.
pub(super) fn admin(root: &mut Section<'_>, data_dir: &Path, claims: &mut Claims) -> Admin {
    let mut section = root.table("admin");
    let socket = section.path_of("socket").unwrap_or_else(|| data_dir.join("admin.sock"));
    let address = address(&mut section, claims);
    if address.is_some_and(|address| !address.ip().is_loopback()) {
        section.warn("address", "can be reached from other machines; everyone who reaches it is an operator");
    }
    section.finish();
    Admin { socket, address }
}

/// The `address` of a section that listens.
pub(super) fn address(section: &mut Section<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let example = "an address with a port, such as \"127.0.0.1:2525\"";
    let address = section.parsed("address", example, |text| text.parse().ok())?;
    claims.address(section, "address", address);
    Some(address)
}

/// `[log]`.
pub(super) fn log(root: &mut Section<'_>) -> Log {
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
pub(super) fn retention(root: &mut Section<'_>) -> Retention {
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

/// `[reports]`: whether senders hear of failures.
pub(super) fn reports(root: &mut Section<'_>) -> bool {
    let mut section = root.table("reports");
    let failures = section.one_of("failures", &REPORTS);
    section.finish();
    failures.unwrap_or(true)
}

/// `[heartbeat]`: the test mail, if there is to be one.
pub(super) fn heartbeat(root: &mut Section<'_>) -> Option<heartbeat::Settings> {
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

/// `[alarms]`: from where on figures are an alarm.
pub(super) fn thresholds(root: &mut Section<'_>) -> Thresholds {
    let mut section = root.table("alarms");
    let usual = Thresholds::default();
    let silence = section.parsed("silence", "\"off\" or a duration from \"1min\" to \"7d\"", |text| {
        let allowed = |duration: &Duration| (MINUTE..=DAY * 7).contains(duration);
        if text == "off" { Some(None) } else { quantity::duration(text).filter(allowed).map(Some) }
    });
    let queue = section.integer("queue", 1..=10_000_000);
    let relay_time = section.duration("relay_time", Duration::from_millis(100)..=DAY);
    let window = section.duration("window", MINUTE * 60..=DAY * 30);
    let least = section.integer("least", 1..=1_000_000);
    let mut percent = |key| section.parsed(key, quantity::A_PERCENTAGE, quantity::percent);
    let (bounces, complaints) = (percent("bounce_rate"), percent("complaint_rate"));
    let deliveries = percent("delivery_rate");
    section.finish();
    Thresholds {
        silence: silence.unwrap_or(usual.silence),
        queue: queue.unwrap_or(usual.queue),
        relay_time: relay_time.unwrap_or(usual.relay_time),
        window: window.unwrap_or(usual.window),
        least: least.unwrap_or(usual.least),
        bounce_rate: bounces.unwrap_or(usual.bounce_rate),
        complaint_rate: complaints.unwrap_or(usual.complaint_rate),
        delivery_rate: deliveries.unwrap_or(usual.delivery_rate),
    }
}

/// `[duplicates]`: how long a message is looked for among those before it.
pub(super) fn duplicates(root: &mut Section<'_>) -> Option<Duration> {
    let mut section = root.table("duplicates");
    let window = section.parsed("window", "\"off\" or a duration from \"1s\" to \"30d\"", |text| {
        let allowed = |duration: &Duration| (Duration::from_secs(1)..=DAY * 30).contains(duration);
        if text == "off" { Some(None) } else { quantity::duration(text).filter(allowed).map(Some) }
    });
    section.finish();
    window.flatten()
}

/// 24 hours.
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
