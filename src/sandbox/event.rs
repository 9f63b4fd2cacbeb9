//! Events as Mailgun writes them, each with the fields that its kind has and no others.

use super::fate::{Fate, Steps};
use super::story::Story;
use super::webhook::random;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// What can happen to a recipient of a message that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    Accepted,
    Delivered,
    DeliveredInTestMode,
    Bounced,
    BouncedLate,
    MailboxFull,
    Greylisted,
    Suppressed,
    Opened,
    OpenedByBot,
    Clicked,
    Complained,
    Unsubscribed,
}

/// The story of each recipient whose sender asked for test mode.
pub(super) const TEST_MODE: Steps = &[(0, Happening::Accepted), (1, Happening::DeliveredInTestMode)];

/// Microseconds as Mailgun writes a time: seconds with a fraction.
pub(super) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// An event's `event-data`.
pub(super) fn data(
    story: &Story,
    happening: Happening,
    at: f64,
    delivered_at: Option<f64>,
) -> Map<String, Value> {
    let (word, level) = happening.word();
    let facts = &story.facts;
    let mut data = object(json!({
        "id": BASE64_URL_SAFE_NO_PAD.encode(random::<16>()),
        "timestamp": at,
        "log-level": level,
        "event": word,
        "account": { "id": "5f0000000000000000000001" },
        "domain": { "name": facts.domain },
        "recipient": story.recipient.as_str(),
        "recipient-domain": story.recipient.domain(),
    }));
    data.extend(object(match happening {
        Happening::Accepted => accepted(story),
        Happening::Opened | Happening::OpenedByBot | Happening::Clicked | Happening::Unsubscribed => {
            engagement(story, happening, delivered_at)
        }
        Happening::Complained => json!({
            "envelope": { "sending-ip": SENDING_IP },
            "flags": { "is-test-mode": false },
            "message": facts.message,
        }),
        _ => delivery(story, happening),
    }));
    if happening == Happening::BouncedLate {
        // The report that Mailgun got names the recipient only.
        data.remove("recipient-domain");
    }
    data.insert("campaigns".into(), json!([]));
    let domain_wide = happening == Happening::Unsubscribed;
    data.insert("tags".into(), if domain_wide { json!(["*"]) } else { json!(facts.tags) });
    data.insert("user-variables".into(), facts.variables.clone().into());
    data
}

impl Happening {
    /// Its name and log level.
    fn word(self) -> (&'static str, &'static str) {
        match self {
            Self::Accepted => ("accepted", "info"),
            Self::Delivered | Self::DeliveredInTestMode => ("delivered", "info"),
            Self::Bounced | Self::BouncedLate | Self::Suppressed => ("failed", "error"),
            Self::MailboxFull | Self::Greylisted => ("failed", "warn"),
            Self::Opened | Self::OpenedByBot => ("opened", "info"),
            Self::Clicked => ("clicked", "info"),
            Self::Complained => ("complained", "warn"),
            Self::Unsubscribed => ("unsubscribed", "info"),
        }
    }

    /// Severity and reason of a failure.
    fn failure(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bounced | Self::BouncedLate => Some(("permanent", "bounce")),
            Self::Suppressed => Some(("permanent", "suppress-bounce")),
            Self::MailboxFull => Some(("temporary", "generic")),
            Self::Greylisted => Some(("temporary", "greylisted")),
            _ => None,
        }
    }
}

fn accepted(story: &Story) -> Value {
    json!({
        "method": "smtp",
        "originating-ip": story.facts.peer,
        "envelope": envelope(story),
        "flags": { "is-authenticated": true, "is-test-mode": story.facts.drop },
        "message": story.facts.message,
        "storage": story.facts.storage,
        "recipient-provider": "Other",
        "delivery-status": null,
    })
}

/// Delivered or failed.
fn delivery(story: &Story, happening: Happening) -> Value {
    let mut data = Map::new();
    if let Some((severity, reason)) = happening.failure() {
        data.insert("severity".into(), severity.into());
        data.insert("reason".into(), reason.into());
    }
    data.insert("delivery-status".into(), status(story, happening));
    if happening == Happening::BouncedLate {
        data.insert("envelope".into(), json!({}));
        data.insert("flags".into(), json!({ "is-delayed-bounce": true, "is-test-mode": false }));
        data.insert("message".into(), story.facts.message.clone());
        return data.into();
    }
    let mut envelope = envelope(story);
    if !matches!(happening, Happening::Suppressed | Happening::DeliveredInTestMode) {
        envelope["sending-ip"] = SENDING_IP.into();
    }
    data.extend(object(json!({
        "envelope": envelope,
        "flags": {
            "is-routed": false,
            "is-authenticated": true,
            "is-system-test": false,
            "is-test-mode": happening == Happening::DeliveredInTestMode,
        },
        "message": story.facts.message,
        "storage": story.facts.storage,
        "recipient-provider": "Other",
        "primary-dkim": format!("s1._domainkey.{}", story.facts.domain),
    })));
    data.into()
}

/// What the recipient's server said, or what Mailgun says in its place.
fn status(story: &Story, happening: Happening) -> Value {
    let host = format!("mx1.{}", story.recipient.domain());
    let unknown = format!("5.1.1 <{}>: Recipient address rejected: User unknown", story.recipient);
    match happening {
        Happening::Bounced => json!({
            "tls": true, "certificate-verified": true, "utf8": true, "mx-host": host, "code": 550,
            "enhanced-code": "5.1.1", "bounce-type": "hard", "attempt-no": 1, "session-seconds": 0.873,
            "first-delivery-attempt-seconds": 0.05, "message": unknown, "description": null,
        }),
        Happening::BouncedLate => json!({
            "code": 550, "bounce-code": "5.1.1", "bounce-type": "hard", "attempt-no": 1,
            "session-seconds": 0, "message": unknown, "description": "",
        }),
        Happening::MailboxFull => json!({
            "tls": true, "certificate-verified": true, "utf8": true, "mx-host": host, "code": 452,
            "enhanced-code": "4.2.2", "attempt-no": 1, "session-seconds": 0.128, "retry-seconds": 600,
            "description": "",
            "message": "4.2.2 The recipient's mailbox is over its quota.\n4.2.2 Try again later.",
        }),
        Happening::Greylisted => json!({
            "tls": false, "utf8": false, "mx-host": host, "code": 451, "enhanced-code": "4.7.1",
            "attempt-no": 2, "session-seconds": 2, "retry-seconds": 900, "description": "",
            "message": "4.7.1 Greylisted, please come back later",
        }),
        Happening::Suppressed => json!({
            "attempt-no": 1, "message": "", "code": 605, "enhanced-code": "",
            "description": "Not delivering to previously bounced address", "session-seconds": 0,
        }),
        Happening::DeliveredInTestMode => json!({
            "code": 650, "attempt-no": 1, "message": "", "session-seconds": 0,
            "description": "Message delivery is skipped, test mode enabled",
        }),
        _ => json!({
            "tls": true, "mx-host": host, "mx-host-ip": "203.0.113.10", "code": 250, "description": null,
            "session-seconds": 0.652, "utf8": true, "attempt-no": attempt(story), "message": "OK",
            "certificate-verified": true, "enhanced-code": null, "first-delivery-attempt-seconds": 0.041,
        }),
    }
}

/// Which attempt got through.
fn attempt(story: &Story) -> usize {
    let deferred =
        |step: &&(u32, Happening)| matches!(step.1, Happening::MailboxFull | Happening::Greylisted);
    1 + Fate::of(&story.recipient).steps().iter().filter(deferred).count()
}

/// Opened, clicked or unsubscribed: of the message only its id is known.
fn engagement(story: &Story, happening: Happening, delivered_at: Option<f64>) -> Value {
    let mut data = object(json!({
        "ip": "198.51.100.200",
        "geolocation": { "country": "DE", "region": "BE", "city": "Berlin", "timezone": "Europe/Berlin" },
        "client-info": client(happening == Happening::OpenedByBot),
        "delivered-at": delivered_at,
        "message": { "headers": { "message-id": story.facts.message_id.as_str() } },
    }));
    match happening {
        Happening::Clicked => data.insert("url".into(), story.facts.link.as_str().into()),
        Happening::Unsubscribed => data.insert("storage".into(), json!([])),
        _ => None,
    };
    data.into()
}

fn client(bot: bool) -> Value {
    if bot {
        return json!({
            "client-os": "unknown", "device-type": "unknown", "client-name": "unknown",
            "client-type": "unknown", "user-agent": "Mozilla/5.0", "bot": "apple",
        });
    }
    json!({
        "client-os": "Linux", "device-type": "desktop", "client-name": "Firefox", "client-type": "browser",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", "bot": "",
    })
}

fn envelope(story: &Story) -> Value {
    json!({ "sender": story.facts.sender, "transport": "smtp", "targets": story.recipient.as_str() })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An address of RFC 5737: nothing is sent from anywhere.
const SENDING_IP: &str = "192.0.2.25";
