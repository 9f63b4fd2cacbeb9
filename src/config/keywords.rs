//! Keywords of closed sets: one table for parsing and formatting.

use crate::logging::{AddressRedaction, LogFormat};
use mailtrail_net::provider_api;
use mailtrail_net::transport::{Pipelining, Security};
use mailtrail_relay::sink::odoo::{OdooMode, UnsubscribeAction};
use mailtrail_relay::submission::ListenerTls;
use mailtrail_smtp::Authentication;
use mailtrail_trail::provider::{Provider, Region};
use mailtrail_trail::suppression::{SuppressionMode, UnsubscribeScope};
use tracing::Level;

/// Keywords and their values.
pub(crate) type Keywords<T> = [(&'static str, T)];

/// Returns the keyword of a value.
pub(crate) fn keyword_of<T: PartialEq>(words: &Keywords<T>, value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

/// Formats a list as `"one", "two"`.
pub(crate) fn quote_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

pub(crate) const LISTENER_TLS_MODES: [(&str, ListenerTls); 3] =
    [("starttls", ListenerTls::StartTls), ("implicit", ListenerTls::Implicit), ("none", ListenerTls::None)];

/// Values of `tls` in `[http]`.
pub(crate) const HTTP_TLS_MODES: [(&str, bool); 2] = [("none", false), ("implicit", true)];

pub(crate) const AUTHENTICATION_MODES: [(&str, Authentication); 2] =
    [("required", Authentication::Required), ("none", Authentication::None)];

pub(crate) const PROVIDER_NAMES: [(&str, Provider); 3] = [
    (Provider::Mailgun.as_str(), Provider::Mailgun),
    (Provider::Brevo.as_str(), Provider::Brevo),
    (Provider::Plain.as_str(), Provider::Plain),
];

pub(crate) const REGION_NAMES: [(&str, Region); 2] =
    [(Region::Us.as_str(), Region::Us), (Region::Eu.as_str(), Region::Eu)];

/// Transport of an upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransportKind {
    Smtp,
    Api,
}

pub(crate) const TRANSPORT_KINDS: [(&str, TransportKind); 2] =
    [("smtp", TransportKind::Smtp), ("api", TransportKind::Api)];

pub(crate) const EVENT_APIS: [(&str, provider_api::EventsApi); 2] =
    [("events", provider_api::EventsApi::Events), ("logs", provider_api::EventsApi::Logs)];

pub(crate) const UPSTREAM_TLS_MODES: [(&str, Security); 3] =
    [("starttls", Security::StartTls), ("implicit", Security::Implicit), ("none", Security::None)];

pub(crate) const PIPELINING_MODES: [(&str, Pipelining); 3] =
    [("full", Pipelining::Full), ("group", Pipelining::Group), ("off", Pipelining::Off)];

pub(crate) const LOG_LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

pub(crate) const LOG_FORMATS: [(&str, LogFormat); 3] =
    [("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];

pub(crate) const LOG_ADDRESS_MODES: [(&str, AddressRedaction); 3] = [
    ("full", AddressRedaction::Full),
    ("domain", AddressRedaction::Domain),
    ("hidden", AddressRedaction::Hidden),
];

pub(crate) const SINK_TYPES: [(&str, SinkType); 3] =
    [("odoo", SinkType::Odoo), ("http", SinkType::Http), ("file", SinkType::File)];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SinkType {
    Odoo,
    Http,
    File,
}

/// Kind of an inbound target.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InboundTransport {
    Smtp,
    Lmtp,
    Http,
    Odoo,
}

pub(crate) const INBOUND_TRANSPORTS: [(&str, InboundTransport); 4] = [
    ("smtp", InboundTransport::Smtp),
    ("lmtp", InboundTransport::Lmtp),
    ("http", InboundTransport::Http),
    ("odoo", InboundTransport::Odoo),
];

/// Values of `auto_replies`: whether automatic replies are delivered.
pub(crate) const AUTO_REPLY_MODES: [(&str, bool); 2] = [("hold", false), ("deliver", true)];

/// Kind of a `[[source]]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceType {
    Generic,
    ActiveCampaign,
}

pub(crate) const SOURCE_TYPES: [(&str, SourceType); 2] =
    [("generic", SourceType::Generic), ("activecampaign", SourceType::ActiveCampaign)];

pub(crate) const SUPPRESSION_MODES: [(&str, SuppressionMode); 3] =
    [("report", SuppressionMode::Report), ("reject", SuppressionMode::Reject), ("off", SuppressionMode::Off)];

/// Scope of an unsubscription.
pub(crate) const UNSUBSCRIBE_SCOPES: [(&str, UnsubscribeScope); 3] = [
    ("refused", UnsubscribeScope::AsProvider),
    ("bulk", UnsubscribeScope::Bulk),
    ("all", UnsubscribeScope::All),
];

/// Values of `failures` in `[reports]`: recipient of DSNs.
pub(crate) const DSN_RECIPIENTS: [(&str, bool); 2] = [("sender", true), ("nobody", false)];

/// Write-back modes of the Odoo sink.
pub(crate) const ODOO_MODES: [(&str, OdooMode); 2] =
    [("action", OdooMode::Action), ("report", OdooMode::Dsn)];

/// Actions of the Odoo sink on an unsubscription.
pub(crate) const ODOO_UNSUBSCRIBE_ACTIONS: [(&str, Option<UnsubscribeAction>); 3] = [
    (UnsubscribeAction::OptOut.as_str(), Some(UnsubscribeAction::OptOut)),
    (UnsubscribeAction::Blacklist.as_str(), Some(UnsubscribeAction::Blacklist)),
    ("off", None),
];
