//! The words of closed sets, one table for reading and showing.

use crate::logging::{Addresses, Format};
use mailtrail_net::provider_api;
use mailtrail_net::transport::{Pipelining, Security};
use mailtrail_relay::sink::odoo::{Unsubscribed, Way};
use mailtrail_relay::submission::ListenerTls;
use mailtrail_smtp::Authentication;
use mailtrail_trail::provider::{Provider, Region};
use mailtrail_trail::suppression::{Policy, Unsubscribes};
use tracing::Level;

/// Words and what they stand for.
pub(crate) type Words<T> = [(&'static str, T)];

/// The word for a value.
pub(crate) fn word<T: PartialEq>(words: &Words<T>, value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

/// `"one", "two"`
pub(crate) fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

pub(crate) const LISTENER_TLS: [(&str, ListenerTls); 3] =
    [("starttls", ListenerTls::StartTls), ("implicit", ListenerTls::Implicit), ("none", ListenerTls::None)];

/// Whether the webhook listener speaks TLS.
pub(crate) const HTTP_TLS: [(&str, bool); 2] = [("none", false), ("implicit", true)];

pub(crate) const AUTHENTICATION: [(&str, Authentication); 2] =
    [("required", Authentication::Required), ("none", Authentication::None)];

pub(crate) const PROVIDERS: [(&str, Provider); 3] = [
    (Provider::Mailgun.word(), Provider::Mailgun),
    (Provider::Brevo.word(), Provider::Brevo),
    (Provider::Plain.word(), Provider::Plain),
];

pub(crate) const REGIONS: [(&str, Region); 2] =
    [(Region::Us.word(), Region::Us), (Region::Eu.word(), Region::Eu)];

/// How messages go to an upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Smtp,
    Api,
}

pub(crate) const TRANSPORTS: [(&str, Transport); 2] = [("smtp", Transport::Smtp), ("api", Transport::Api)];

pub(crate) const EVENT_APIS: [(&str, provider_api::Api); 2] =
    [("events", provider_api::Api::Events), ("logs", provider_api::Api::Logs)];

pub(crate) const SECURITY: [(&str, Security); 3] =
    [("starttls", Security::StartTls), ("implicit", Security::Implicit), ("none", Security::None)];

pub(crate) const PIPELINING: [(&str, Pipelining); 3] =
    [("full", Pipelining::Full), ("group", Pipelining::Group), ("off", Pipelining::Off)];

pub(crate) const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

pub(crate) const LOG_FORMATS: [(&str, Format); 3] =
    [("text", Format::Text), ("json", Format::Json), ("journald", Format::Journald)];

pub(crate) const LOG_ADDRESSES: [(&str, Addresses); 3] =
    [("full", Addresses::Full), ("domain", Addresses::Domain), ("hidden", Addresses::Hidden)];

pub(crate) const SINKS: [(&str, SinkKind); 3] =
    [("odoo", SinkKind::Odoo), ("http", SinkKind::Http), ("file", SinkKind::File)];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SinkKind {
    Odoo,
    Http,
    File,
}

/// What mail from outside is delivered by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deliver {
    Smtp,
    Lmtp,
    Http,
    Odoo,
}

pub(crate) const INBOUND: [(&str, Deliver); 4] =
    [("smtp", Deliver::Smtp), ("lmtp", Deliver::Lmtp), ("http", Deliver::Http), ("odoo", Deliver::Odoo)];

/// Whether machines' answers are delivered.
pub(crate) const AUTO_REPLIES: [(&str, bool); 2] = [("hold", false), ("deliver", true)];

/// What a `[[source]]` is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reporter {
    Generic,
    ActiveCampaign,
}

pub(crate) const REPORTERS: [(&str, Reporter); 2] =
    [("generic", Reporter::Generic), ("activecampaign", Reporter::ActiveCampaign)];

pub(crate) const SUPPRESSION_POLICIES: [(&str, Policy); 3] =
    [("report", Policy::Report), ("reject", Policy::Reject), ("off", Policy::Off)];

/// What an unsubscription keeps back.
pub(crate) const UNSUBSCRIBES: [(&str, Unsubscribes); 3] =
    [("refused", Unsubscribes::Refused), ("bulk", Unsubscribes::Bulk), ("all", Unsubscribes::All)];

/// Who hears of failures.
pub(crate) const REPORTS: [(&str, bool); 2] = [("sender", true), ("nobody", false)];

/// How Odoo is told.
pub(crate) const WAYS: [(&str, Way); 2] = [("action", Way::Action), ("report", Way::Report)];

/// What becomes of who unsubscribes.
pub(crate) const UNSUBSCRIBED: [(&str, Option<Unsubscribed>); 3] = [
    (Unsubscribed::OptOut.word(), Some(Unsubscribed::OptOut)),
    (Unsubscribed::Blacklist.word(), Some(Unsubscribed::Blacklist)),
    ("off", None),
];
