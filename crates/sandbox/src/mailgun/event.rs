//! Events as Mailgun writes them, each with the fields that its kind has and no others.

use crate::lifecycle::Story;
use crate::message_facts::Origin;
use crate::profile::Face;
use crate::scenario::{Fate, Steps};
use crate::webhook_client::random;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// What can happen to a recipient of a message that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    Accepted,
    Delivered,
    DeliveredInTestMode,
    Bounced,
    BouncedLate,
    MailboxFull,
    Greylisted,
    Suppressed,
    SuppressedUnsubscribed,
    SuppressedComplained,
    Opened,
    OpenedAgain,
    OpenedByBot,
    Clicked,
    Complained,
    Unsubscribed,
    /// It is no address.
    Invalid,
    /// Nothing is sent for this sender.
    SenderUnverified,
}

/// The story of each recipient whose sender asked for test mode.
pub(crate) const TEST_MODE: Steps = &[(0, Happening::Accepted), (1, Happening::DeliveredInTestMode)];

/// Microseconds as Mailgun writes a time: seconds with a fraction.
pub(crate) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// An event's `event-data`.
pub(crate) fn data(
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
        Happening::Opened
        | Happening::OpenedAgain
        | Happening::OpenedByBot
        | Happening::Clicked
        | Happening::Unsubscribed => engagement(story, happening, delivered_at),
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
            Self::Bounced | Self::BouncedLate | Self::Invalid | Self::SenderUnverified => ("failed", "error"),
            Self::Suppressed | Self::SuppressedUnsubscribed | Self::SuppressedComplained => {
                ("failed", "error")
            }
            Self::MailboxFull | Self::Greylisted => ("failed", "warn"),
            Self::Opened | Self::OpenedAgain | Self::OpenedByBot => ("opened", "info"),
            Self::Clicked => ("clicked", "info"),
            Self::Complained => ("complained", "warn"),
            Self::Unsubscribed => ("unsubscribed", "info"),
        }
    }

    /// Whether Mailgun never connected to the recipient's server.
    fn is_without_delivery(self) -> bool {
        matches!(
            self,
            Self::Suppressed
                | Self::SuppressedUnsubscribed
                | Self::SuppressedComplained
                | Self::DeliveredInTestMode
        )
    }

    /// Severity and reason of a failure.
    fn failure(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bounced | Self::BouncedLate | Self::Invalid | Self::SenderUnverified => {
                Some(("permanent", "bounce"))
            }
            Self::Suppressed => Some(("permanent", "suppress-bounce")),
            Self::SuppressedUnsubscribed => Some(("permanent", "suppress-unsubscribe")),
            Self::SuppressedComplained => Some(("permanent", "suppress-complaint")),
            Self::MailboxFull => Some(("temporary", "generic")),
            Self::Greylisted => Some(("temporary", "greylisted")),
            _ => None,
        }
    }
}

fn accepted(story: &Story) -> Value {
    let mut data = object(match story.facts.origin {
        Origin::Smtp(peer) => json!({ "method": "smtp", "originating-ip": peer }),
        Origin::Http(_) => json!({ "method": "HTTP", "api-key-id": "0000000a-00000001" }),
    });
    data.extend(object(json!({
        "envelope": envelope(story),
        "flags": { "is-authenticated": true, "is-test-mode": story.facts.drop },
        "message": story.facts.message,
        "storage": story.facts.storage,
        "recipient-provider": "Other",
        "delivery-status": null,
    })));
    data.into()
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
    if !happening.is_without_delivery() {
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
        Happening::Bounced | Happening::Invalid | Happening::SenderUnverified => json!({
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
        Happening::Suppressed => suppressed(605, "Not delivering to previously bounced address"),
        Happening::SuppressedUnsubscribed => suppressed(606, "Not delivering to unsubscribed address"),
        Happening::SuppressedComplained => {
            suppressed(607, "Not delivering to a user who marked your messages as spam")
        }
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

fn suppressed(code: u16, description: &str) -> Value {
    json!({
        "attempt-no": 1, "message": "", "code": code, "enhanced-code": "", "description": description,
        "session-seconds": 0,
    })
}

/// Which attempt got through.
fn attempt(story: &Story) -> usize {
    let deferred =
        |step: &&(u32, Happening)| matches!(step.1, Happening::MailboxFull | Happening::Greylisted);
    1 + Fate::of(&story.recipient).steps(Face::Mailgun).iter().filter(deferred).count()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message_facts::Facts;
    use mailtrail_mail::Envelope;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    const MESSAGE: &[u8] = b"Message-ID: <1@mg.example.com>\r\nFrom: a@example.com\r\nTo: b@example.net\r\n\
        Subject: s\r\nX-Mailgun-Variables: {\"odoo_db\": \"a\", \"tracking_email_id\": 1, \"mailtrail\": \"b\"}\r\n\
        Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\nx\r\n";

    fn story() -> Story {
        let recipient: mailtrail_mail::Mailbox = "ada@example.net".parse().unwrap();
        let envelope = Envelope { recipients: vec![recipient.clone()], ..Envelope::default() };
        let facts =
            Facts::read(&envelope, MESSAGE, Origin::Smtp([127, 0, 0, 1].into()), "mg.example.com", "");
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Story::new(Arc::new(facts), recipient, place)
    }

    /// Every field's path and the type of its value.
    fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(name, value)| fields(value, &format!("{path}.{name}"), found));
            }
            Value::Array(list) => {
                found.insert(format!("{path}[]"));
                list.iter().filter(|one| one.is_object()).for_each(|one| fields(one, path, found));
            }
            value => {
                let kind = if value.is_number() { "number" } else { "" };
                found.insert(format!("{path} {kind}"));
            }
        }
    }

    #[test]
    fn fields_are_those_of_the_recorded_events() {
        macro_rules! recorded {
            ($name:literal) => {
                include_str!(concat!("../../../../tests/fixtures/mailgun/webhook_", $name, ".json"))
            };
        }
        for (happening, recorded) in [
            (Happening::Accepted, recorded!("accepted_smtp")),
            (Happening::Delivered, recorded!("delivered")),
            (Happening::Bounced, recorded!("failed_permanent_bounce")),
            (Happening::Suppressed, recorded!("failed_permanent_suppress_bounce")),
            (Happening::SuppressedUnsubscribed, recorded!("failed_permanent_suppress_unsubscribe")),
            (Happening::SuppressedComplained, recorded!("failed_permanent_suppress_complaint")),
            (Happening::MailboxFull, recorded!("failed_temporary")),
            (Happening::Greylisted, recorded!("failed_temporary_greylisted")),
            (Happening::Opened, recorded!("opened")),
            (Happening::OpenedByBot, recorded!("opened_bot_apple")),
            (Happening::Clicked, recorded!("clicked")),
            (Happening::Complained, recorded!("complained")),
            (Happening::Unsubscribed, recorded!("unsubscribed")),
        ] {
            let recorded: Value = serde_json::from_str(recorded).unwrap();
            let (mut expected, mut got) = (BTreeSet::new(), BTreeSet::new());
            fields(&recorded["event-data"], "", &mut expected);
            fields(&data(&story(), happening, 1.5, Some(1.25)).into(), "", &mut got);
            assert_eq!(got, expected, "{happening:?}");
        }
    }
}
