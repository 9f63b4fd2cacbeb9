//! Events as Brevo's webhooks write them, each with the fields that its kind has and no others.

use crate::brevo::time_zone;
use crate::lifecycle::RecipientLifecycle;
use crate::mailgun::SandboxEvent;
use mailtrail_mail::Timestamp;
use serde_json::{Map, Value, json};

/// Builds an event. All times but one are in the account's time zone. Messages over SMTP have `tag`; `tags` belongs to
/// the API.
pub(crate) fn build_webhook_event(
    lifecycle: &RecipientLifecycle,
    happening: SandboxEvent,
    at: Timestamp,
) -> Map<String, Value> {
    let (word, reason) = event_and_reason(happening);
    let facts = &lifecycle.facts;
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| drop(data.insert(name.to_owned(), value));
    // The account's: events have none.
    put("id", json!(1_048_577));
    put("email", lifecycle.recipient.as_str().into());
    put("message-id", format!("<{}>", facts.message_id.as_str()).into());
    put("date", time_zone::format_local(at).into());
    if let Some(tag) = &facts.mailin_tag {
        put("tag", tag.as_str().into());
    }
    put("event", word.into());
    put("subject", facts.message["headers"]["subject"].clone());
    if let Some(reason) = reason {
        put("reason", reason.into());
    }
    if is_by_person(happening) {
        let link = if happening == SandboxEvent::Clicked { facts.first_link.as_str() } else { "" };
        put("link", link.into());
        put("contact_id", json!(42));
        put("user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0".into());
        put("device_used", "DESKTOP".into());
    }
    match happening {
        SandboxEvent::OpenedAgain => put("mirror_link", "https://r.example.com/mk/mr/abc".into()),
        SandboxEvent::Unsubscribed => put("is_returnpath", true.into()),
        _ => {}
    }
    if has_sending_ip(happening) {
        put("sending_ip", SENDING_IP.into());
    }
    if let Some(custom) = &facts.mailin_custom {
        put("X-Mailin-custom", custom.as_str().into());
    }
    put("ts_event", time_zone::local_seconds(at).into());
    put("ts", time_zone::local_seconds(at).into());
    put("ts_epoch", at.as_millis().into());
    data
}

/// Adds the fields that only the statistics have.
pub(crate) fn to_log_entry(lifecycle: &RecipientLifecycle, data: &Map<String, Value>) -> Map<String, Value> {
    let mut logged = data.clone();
    logged.insert("sender_email".into(), lifecycle.facts.author.as_str().into());
    logged
}

/// Converts an event to the form of the statistics: other names, whole seconds, no stamp, and no sending address for
/// failures.
pub(super) fn to_statistics_event(event: &Value) -> Value {
    let at = Timestamp::from_millis(event["ts_epoch"].as_u64().unwrap_or_default());
    let mut written = json!({
        "email": event["email"],
        "date": time_zone::format_iso8601(at),
        "messageId": event["message-id"],
        "event": statistics_event_name(event["event"].as_str().unwrap_or_default()),
        "subject": event["subject"],
        "from": event["sender_email"],
    });
    let failed = event.get("reason").is_some_and(|reason| reason != "sent");
    for (webhook, statistics, told) in [
        ("tag", "tag", true),
        ("link", "link", true),
        ("reason", "reason", failed),
        ("sending_ip", "ip", !failed),
    ] {
        if let Some(value) = event.get(webhook).filter(|value| told && **value != "") {
            written[statistics] = value.clone();
        }
    }
    written
}

/// Name of the event in webhooks, with a reason if it has one.
fn event_and_reason(happening: SandboxEvent) -> (&'static str, Option<&'static str>) {
    match happening {
        SandboxEvent::Accepted => ("request", Some("sent")),
        SandboxEvent::Delivered | SandboxEvent::DeliveredInTestMode => ("delivered", Some("sent")),
        SandboxEvent::Bounced | SandboxEvent::BouncedLate => (
            "hard_bounce",
            Some("550-5.1.1 The mailbox does not exist.\n550 5.1.1 Recipient address rejected: User unknown"),
        ),
        SandboxEvent::MailboxFull => ("soft_bounce", Some("452 4.2.2 mailbox over quota")),
        SandboxEvent::Greylisted => ("deferred", Some("4.7.0 Try again later")),
        SandboxEvent::Suppressed => ("blocked", Some("blocked : due to blacklist user")),
        SandboxEvent::SuppressedUnsubscribed => ("blocked", Some("blocked : due to unsubscribed user")),
        SandboxEvent::SuppressedComplained => ("blocked", Some("blocked : due to spam complaint")),
        SandboxEvent::Opened => ("unique_opened", None),
        SandboxEvent::OpenedAgain => ("opened", None),
        SandboxEvent::OpenedByBot => ("proxy_open", None),
        SandboxEvent::Clicked => ("click", None),
        // The documentation says `spam`; this name was observed.
        SandboxEvent::Complained => ("complaint", None),
        SandboxEvent::Unsubscribed => ("unsubscribed", None),
        SandboxEvent::InvalidAddress => ("invalid_email", None),
        SandboxEvent::SenderUnverified => ("error", Some("Invalid sender")),
    }
}

/// Name in the statistics of a webhook's event.
pub(super) fn statistics_event_name(word: &str) -> &str {
    match word {
        "request" => "requests",
        "soft_bounce" => "softBounces",
        "hard_bounce" => "hardBounces",
        "invalid_email" => "invalid",
        "complaint" => "spam",
        "unique_opened" => "opened",
        "proxy_open" => "loadedByProxy",
        "click" => "clicks",
        word => word,
    }
}

fn is_by_person(happening: SandboxEvent) -> bool {
    matches!(happening, SandboxEvent::Opened | SandboxEvent::OpenedAgain | SandboxEvent::Clicked)
}

/// Whether the event names the sending address.
fn has_sending_ip(happening: SandboxEvent) -> bool {
    matches!(
        happening,
        SandboxEvent::Accepted
            | SandboxEvent::Delivered
            | SandboxEvent::DeliveredInTestMode
            | SandboxEvent::Bounced
            | SandboxEvent::BouncedLate
            | SandboxEvent::MailboxFull
            | SandboxEvent::Greylisted
            | SandboxEvent::OpenedByBot
    ) || is_by_person(happening)
}

/// An address of RFC 5737: nothing is sent from anywhere.
const SENDING_IP: &str = "192.0.2.80";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message_facts::{MessageFacts, SubmissionOrigin};
    use mailtrail_mail::Envelope;
    use mailtrail_trail::provider::brevo;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    const SAMPLE_MESSAGE: &[u8] = b"Message-ID: <1789387199.4711.mt0001@mg.example.com>\r\n\
        From: Sales <sales@example.com>\r\nTo: ada@example.net\r\nSubject: Quotation S00042\r\n\
        X-Mailin-Tag: odoo\r\nX-Mailin-custom: {\"mailtrail\": \"01K54Z8Q3V7N5X9B2C6D8F0GHJ\", \"odoo_db\": \"prod\"}\r\n\
        Content-Type: text/html\r\n\r\n<a href=\"https://www.example.com/my/orders/42\">42</a>\r\n";

    fn sample_lifecycle(recipient: &str) -> RecipientLifecycle {
        let recipient: mailtrail_mail::Mailbox = recipient.parse().unwrap();
        let facts = MessageFacts::from_message(
            &Envelope::default(),
            SAMPLE_MESSAGE,
            SubmissionOrigin::Smtp([127, 0, 0, 1].into()),
            "example.com",
            "made-up@example.com",
        );
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        RecipientLifecycle::new(Arc::new(facts), recipient, place)
    }

    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../../../tests/fixtures/brevo/", $name, ".json"))
        };
    }

    /// Every event against the recorded one, with our values for server texts.
    #[test]
    fn webhook_events_match_recordings() {
        for (happening, recorded) in [
            (SandboxEvent::Accepted, recorded!("request")),
            (SandboxEvent::Delivered, recorded!("delivered")),
            (SandboxEvent::Bounced, recorded!("hard_bounce")),
            (SandboxEvent::BouncedLate, recorded!("hard_bounce")),
            (SandboxEvent::MailboxFull, recorded!("soft_bounce")),
            (SandboxEvent::Greylisted, recorded!("deferred")),
            (SandboxEvent::Suppressed, recorded!("blocked_hard_bounce")),
            (SandboxEvent::SuppressedUnsubscribed, recorded!("blocked")),
            (SandboxEvent::Opened, recorded!("unique_opened")),
            (SandboxEvent::OpenedAgain, recorded!("opened")),
            (SandboxEvent::OpenedByBot, recorded!("proxy_open")),
            (SandboxEvent::Clicked, recorded!("click")),
            (SandboxEvent::Complained, recorded!("complaint")),
            (SandboxEvent::Unsubscribed, recorded!("unsubscribed")),
            (SandboxEvent::InvalidAddress, recorded!("invalid_email")),
            (SandboxEvent::SenderUnverified, recorded!("error")),
        ] {
            let mut recorded: Map<String, Value> = serde_json::from_str(recorded).unwrap();
            let at = Timestamp::from_millis(recorded["ts_epoch"].as_u64().unwrap());
            // The recordings are of mail that came by the API, and their `ts` are in UTC.
            assert!(recorded.remove("tags").is_some());
            recorded.insert("tag".into(), "odoo".into());
            for name in ["ts", "ts_event"] {
                assert_eq!(
                    recorded.insert(name.into(), time_zone::local_seconds(at).into()).unwrap(),
                    at.as_secs()
                );
            }
            let mut got = build_webhook_event(&sample_lifecycle("ada@example.net"), happening, at);
            if happening == SandboxEvent::Bounced || happening == SandboxEvent::BouncedLate {
                recorded.insert("reason".into(), got["reason"].clone());
            }
            assert_eq!(Value::Object(got.clone()), Value::Object(recorded.clone()), "{happening:?}");
            // The statistics report the same event.
            got.insert("sender_email".into(), "sales@example.com".into());
            let event = brevo::decode_event(&Value::Object(got.clone()), at).unwrap();
            let statistics = to_statistics_event(&Value::Object(got));
            let mut told = json!({ "event": statistics["event"], "email": statistics["email"] });
            told["message-id"] = statistics["messageId"].clone();
            told["link"] = statistics.get("link").cloned().unwrap_or_default();
            let date = Timestamp::parse_rfc3339(statistics["date"].as_str().unwrap()).unwrap();
            told["ts_epoch"] = date.as_millis().into();
            assert_eq!(brevo::decode_event(&told, at).unwrap().dedup_key, event.dedup_key, "{happening:?}");
        }
    }

    #[test]
    fn statistics_events_match_recordings() {
        let recorded: Value = serde_json::from_str(recorded!("api_statistics_events")).unwrap();
        for (happening, to, recorded, without) in [
            (SandboxEvent::Delivered, "ada@example.net", &recorded["events"][0], ""),
            // Its reason is a server's, and its mail had no tag.
            (SandboxEvent::Bounced, "bob@example.org", &recorded["events"][1], "tag"),
        ] {
            let at = Timestamp::parse_rfc3339(recorded["date"].as_str().unwrap()).unwrap();
            let lifecycle = sample_lifecycle(to);
            let logged = to_log_entry(
                &lifecycle,
                &build_webhook_event(&lifecycle, happening, Timestamp::from_millis(at.as_millis() + 179)),
            );
            let mut got = to_statistics_event(&Value::Object(logged));
            got.as_object_mut().unwrap().remove(without);
            let mut expected = recorded.clone();
            if happening == SandboxEvent::Bounced {
                expected["reason"] = got["reason"].clone();
            }
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn statistics_event_names_are_valid_filters() {
        let all: BTreeSet<_> = [
            "request",
            "delivered",
            "hard_bounce",
            "soft_bounce",
            "deferred",
            "blocked",
            "unique_opened",
            "opened",
            "proxy_open",
            "click",
            "complaint",
            "unsubscribed",
            "invalid_email",
            "error",
        ]
        .map(statistics_event_name)
        .into();
        assert!(all.iter().all(|word| crate::brevo::statistics::EVENT_NAMES.contains(word)), "{all:?}");
    }
}
