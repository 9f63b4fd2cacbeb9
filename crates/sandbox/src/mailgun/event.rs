//! Events as Mailgun writes them, each with the fields that its kind has and no others.

use crate::lifecycle::RecipientLifecycle;
use crate::message_facts::SubmissionOrigin;
use crate::profile::ProviderProfile;
use crate::scenario::{Scenario, Timeline};
use crate::webhook_client::random_bytes;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// Event of a recipient of an accepted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SandboxEvent {
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
    InvalidAddress,
    /// Nothing is sent for this sender.
    SenderUnverified,
}

/// Timeline of recipients in test mode.
pub(crate) const TEST_MODE_TIMELINE: Timeline =
    &[(0, SandboxEvent::Accepted), (1, SandboxEvent::DeliveredInTestMode)];

/// Microseconds as Mailgun writes a time: seconds with a fraction.
pub(crate) fn micros_to_seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Builds the `event-data` of an event.
pub(crate) fn build_event_data(
    lifecycle: &RecipientLifecycle,
    happening: SandboxEvent,
    at: f64,
    delivered_at: Option<f64>,
) -> Map<String, Value> {
    let (word, level) = happening.name_and_level();
    let facts = &lifecycle.facts;
    let mut data = into_object(json!({
        "id": BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<16>()),
        "timestamp": at,
        "log-level": level,
        "event": word,
        "account": { "id": "5f0000000000000000000001" },
        "domain": { "name": facts.domain },
        "recipient": lifecycle.recipient.as_str(),
        "recipient-domain": lifecycle.recipient.domain(),
    }));
    data.extend(into_object(match happening {
        SandboxEvent::Accepted => accepted_fields(lifecycle),
        SandboxEvent::Opened
        | SandboxEvent::OpenedAgain
        | SandboxEvent::OpenedByBot
        | SandboxEvent::Clicked
        | SandboxEvent::Unsubscribed => engagement_fields(lifecycle, happening, delivered_at),
        SandboxEvent::Complained => json!({
            "envelope": { "sending-ip": SENDING_IP },
            "flags": { "is-test-mode": false },
            "message": facts.message,
        }),
        _ => delivery_fields(lifecycle, happening),
    }));
    if happening == SandboxEvent::BouncedLate {
        // The report that Mailgun got names the recipient only.
        data.remove("recipient-domain");
    }
    data.insert("campaigns".into(), json!([]));
    let domain_wide = happening == SandboxEvent::Unsubscribed;
    data.insert("tags".into(), if domain_wide { json!(["*"]) } else { json!(facts.tags) });
    data.insert("user-variables".into(), facts.variables.clone().into());
    data
}

impl SandboxEvent {
    /// Its name and log level.
    fn name_and_level(self) -> (&'static str, &'static str) {
        match self {
            Self::Accepted => ("accepted", "info"),
            Self::Delivered | Self::DeliveredInTestMode => ("delivered", "info"),
            Self::Bounced | Self::BouncedLate | Self::InvalidAddress | Self::SenderUnverified => {
                ("failed", "error")
            }
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
    fn skips_delivery(self) -> bool {
        matches!(
            self,
            Self::Suppressed
                | Self::SuppressedUnsubscribed
                | Self::SuppressedComplained
                | Self::DeliveredInTestMode
        )
    }

    /// Severity and reason of a failure.
    fn severity_and_reason(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bounced | Self::BouncedLate | Self::InvalidAddress | Self::SenderUnverified => {
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

fn accepted_fields(lifecycle: &RecipientLifecycle) -> Value {
    let mut data = into_object(match lifecycle.facts.origin {
        SubmissionOrigin::Smtp(peer) => json!({ "method": "smtp", "originating-ip": peer }),
        SubmissionOrigin::Http(_) => json!({ "method": "HTTP", "api-key-id": "0000000a-00000001" }),
    });
    data.extend(into_object(json!({
        "envelope": envelope_json(lifecycle),
        "flags": { "is-authenticated": true, "is-test-mode": lifecycle.facts.is_test_mode },
        "message": lifecycle.facts.message,
        "storage": lifecycle.facts.storage,
        "recipient-provider": "Other",
        "delivery-status": null,
    })));
    data.into()
}

/// Fields of delivered and failed events.
fn delivery_fields(lifecycle: &RecipientLifecycle, happening: SandboxEvent) -> Value {
    let mut data = Map::new();
    if let Some((severity, reason)) = happening.severity_and_reason() {
        data.insert("severity".into(), severity.into());
        data.insert("reason".into(), reason.into());
    }
    data.insert("delivery-status".into(), delivery_status(lifecycle, happening));
    if happening == SandboxEvent::BouncedLate {
        data.insert("envelope".into(), json!({}));
        data.insert("flags".into(), json!({ "is-delayed-bounce": true, "is-test-mode": false }));
        data.insert("message".into(), lifecycle.facts.message.clone());
        return data.into();
    }
    let mut envelope = envelope_json(lifecycle);
    if !happening.skips_delivery() {
        envelope["sending-ip"] = SENDING_IP.into();
    }
    data.extend(into_object(json!({
        "envelope": envelope,
        "flags": {
            "is-routed": false,
            "is-authenticated": true,
            "is-system-test": false,
            "is-test-mode": happening == SandboxEvent::DeliveredInTestMode,
        },
        "message": lifecycle.facts.message,
        "storage": lifecycle.facts.storage,
        "recipient-provider": "Other",
        "primary-dkim": format!("s1._domainkey.{}", lifecycle.facts.domain),
    })));
    data.into()
}

/// Reply of the recipient's server, or Mailgun's own text.
fn delivery_status(lifecycle: &RecipientLifecycle, happening: SandboxEvent) -> Value {
    let host = format!("mx1.{}", lifecycle.recipient.domain());
    let unknown = format!("5.1.1 <{}>: Recipient address rejected: User unknown", lifecycle.recipient);
    match happening {
        SandboxEvent::Bounced | SandboxEvent::InvalidAddress | SandboxEvent::SenderUnverified => json!({
            "tls": true, "certificate-verified": true, "utf8": true, "mx-host": host, "code": 550,
            "enhanced-code": "5.1.1", "bounce-type": "hard", "attempt-no": 1, "session-seconds": 0.873,
            "first-delivery-attempt-seconds": 0.05, "message": unknown, "description": null,
        }),
        SandboxEvent::BouncedLate => json!({
            "code": 550, "bounce-code": "5.1.1", "bounce-type": "hard", "attempt-no": 1,
            "session-seconds": 0, "message": unknown, "description": "",
        }),
        SandboxEvent::MailboxFull => json!({
            "tls": true, "certificate-verified": true, "utf8": true, "mx-host": host, "code": 452,
            "enhanced-code": "4.2.2", "attempt-no": 1, "session-seconds": 0.128, "retry-seconds": 600,
            "description": "",
            "message": "4.2.2 The recipient's mailbox is over its quota.\n4.2.2 Try again later.",
        }),
        SandboxEvent::Greylisted => json!({
            "tls": false, "utf8": false, "mx-host": host, "code": 451, "enhanced-code": "4.7.1",
            "attempt-no": 2, "session-seconds": 2, "retry-seconds": 900, "description": "",
            "message": "4.7.1 Greylisted, please come back later",
        }),
        SandboxEvent::Suppressed => suppressed_status(605, "Not delivering to previously bounced address"),
        SandboxEvent::SuppressedUnsubscribed => {
            suppressed_status(606, "Not delivering to unsubscribed address")
        }
        SandboxEvent::SuppressedComplained => {
            suppressed_status(607, "Not delivering to a user who marked your messages as spam")
        }
        SandboxEvent::DeliveredInTestMode => json!({
            "code": 650, "attempt-no": 1, "message": "", "session-seconds": 0,
            "description": "Message delivery is skipped, test mode enabled",
        }),
        _ => json!({
            "tls": true, "mx-host": host, "mx-host-ip": "203.0.113.10", "code": 250, "description": null,
            "session-seconds": 0.652, "utf8": true, "attempt-no": attempt_number(lifecycle), "message": "OK",
            "certificate-verified": true, "enhanced-code": null, "first-delivery-attempt-seconds": 0.041,
        }),
    }
}

fn suppressed_status(code: u16, description: &str) -> Value {
    json!({
        "attempt-no": 1, "message": "", "code": code, "enhanced-code": "", "description": description,
        "session-seconds": 0,
    })
}

/// Which attempt got through.
fn attempt_number(lifecycle: &RecipientLifecycle) -> usize {
    let deferred =
        |step: &&(u32, SandboxEvent)| matches!(step.1, SandboxEvent::MailboxFull | SandboxEvent::Greylisted);
    1 + Scenario::for_recipient(&lifecycle.recipient)
        .timeline(ProviderProfile::Mailgun)
        .iter()
        .filter(deferred)
        .count()
}

/// Fields of opened, clicked and unsubscribed events, which have only the id of the message.
fn engagement_fields(
    lifecycle: &RecipientLifecycle,
    happening: SandboxEvent,
    delivered_at: Option<f64>,
) -> Value {
    let mut data = into_object(json!({
        "ip": "198.51.100.200",
        "geolocation": { "country": "DE", "region": "BE", "city": "Berlin", "timezone": "Europe/Berlin" },
        "client-info": client_info(happening == SandboxEvent::OpenedByBot),
        "delivered-at": delivered_at,
        "message": { "headers": { "message-id": lifecycle.facts.message_id.as_str() } },
    }));
    match happening {
        SandboxEvent::Clicked => data.insert("url".into(), lifecycle.facts.first_link.as_str().into()),
        SandboxEvent::Unsubscribed => data.insert("storage".into(), json!([])),
        _ => None,
    };
    data.into()
}

fn client_info(bot: bool) -> Value {
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

fn envelope_json(lifecycle: &RecipientLifecycle) -> Value {
    json!({ "sender": lifecycle.facts.sender, "transport": "smtp", "targets": lifecycle.recipient.as_str() })
}

fn into_object(value: Value) -> Map<String, Value> {
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
    use crate::message_facts::MessageFacts;
    use mailtrail_mail::Envelope;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    const SAMPLE_MESSAGE: &[u8] = b"Message-ID: <1@mg.example.com>\r\nFrom: a@example.com\r\nTo: b@example.net\r\n\
        Subject: s\r\nX-Mailgun-Variables: {\"odoo_db\": \"a\", \"tracking_email_id\": 1, \"mailtrail\": \"b\"}\r\n\
        Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\nx\r\n";

    fn sample_lifecycle() -> RecipientLifecycle {
        let recipient: mailtrail_mail::Mailbox = "ada@example.net".parse().unwrap();
        let envelope = Envelope { recipients: vec![recipient.clone()], ..Envelope::default() };
        let facts = MessageFacts::from_message(
            &envelope,
            SAMPLE_MESSAGE,
            SubmissionOrigin::Smtp([127, 0, 0, 1].into()),
            "mg.example.com",
            "",
        );
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        RecipientLifecycle::new(Arc::new(facts), recipient, place)
    }

    /// Every field's path and the type of its value.
    fn collect_field_paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                map.iter()
                    .for_each(|(name, value)| collect_field_paths(value, &format!("{path}.{name}"), found));
            }
            Value::Array(list) => {
                found.insert(format!("{path}[]"));
                list.iter()
                    .filter(|one| one.is_object())
                    .for_each(|one| collect_field_paths(one, path, found));
            }
            value => {
                let kind = if value.is_number() { "number" } else { "" };
                found.insert(format!("{path} {kind}"));
            }
        }
    }

    #[test]
    fn event_fields_match_recordings() {
        macro_rules! recorded {
            ($name:literal) => {
                include_str!(concat!("../../../../tests/fixtures/mailgun/webhook_", $name, ".json"))
            };
        }
        for (happening, recorded) in [
            (SandboxEvent::Accepted, recorded!("accepted_smtp")),
            (SandboxEvent::Delivered, recorded!("delivered")),
            (SandboxEvent::Bounced, recorded!("failed_permanent_bounce")),
            (SandboxEvent::Suppressed, recorded!("failed_permanent_suppress_bounce")),
            (SandboxEvent::SuppressedUnsubscribed, recorded!("failed_permanent_suppress_unsubscribe")),
            (SandboxEvent::SuppressedComplained, recorded!("failed_permanent_suppress_complaint")),
            (SandboxEvent::MailboxFull, recorded!("failed_temporary")),
            (SandboxEvent::Greylisted, recorded!("failed_temporary_greylisted")),
            (SandboxEvent::Opened, recorded!("opened")),
            (SandboxEvent::OpenedByBot, recorded!("opened_bot_apple")),
            (SandboxEvent::Clicked, recorded!("clicked")),
            (SandboxEvent::Complained, recorded!("complained")),
            (SandboxEvent::Unsubscribed, recorded!("unsubscribed")),
        ] {
            let recorded: Value = serde_json::from_str(recorded).unwrap();
            let (mut expected, mut got) = (BTreeSet::new(), BTreeSet::new());
            collect_field_paths(&recorded["event-data"], "", &mut expected);
            collect_field_paths(
                &build_event_data(&sample_lifecycle(), happening, 1.5, Some(1.25)).into(),
                "",
                &mut got,
            );
            assert_eq!(got, expected, "{happening:?}");
        }
    }
}
