use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_KEY, MAX_TEXT, MAX_URL, MAX_WORD};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp};
use serde_json::Value;

/// Reads an event in our own words; `None` for what is none. `otherwise` is the identity of one that brings no `id`, and
/// one without a `time` happened when it was `reported`. A field of another shape counts as absent.
pub fn decode(data: &Value, otherwise: &str, reported: Timestamp) -> Option<ProviderEvent> {
    let payload = Payload(data);
    let word = payload.line("event", MAX_WORD)?;
    let kind = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or(EventKind::Unknown);
    let id = payload.line("id", MAX_KEY);
    Some(ProviderEvent {
        kind,
        at: data.get("time").and_then(time).unwrap_or(reported),
        dedup_key: format!("{IDENTITY}{}", id.as_deref().unwrap_or(otherwise)),
        recipient: payload.str("recipient").map(|named| sanitize::address(named).unwrap_or_default()),
        tracking_id: payload.str("tracking_id").and_then(|id| id.trim().parse().ok()),
        message_id: payload.str("message_id").and_then(MessageId::parse),
        automated: payload.is("by_machine"),
        test_mode: payload.is("test_mode"),
        diagnostic: Diagnostic {
            name: payload.line("name", MAX_WORD).unwrap_or(word),
            code: data.get("code").and_then(Value::as_u64).and_then(|code| code.try_into().ok()),
            enhanced_status: payload.line("enhanced", MAX_WORD),
            text: payload.line("text", MAX_TEXT),
            host: payload.line("host", MAX_WORD),
            url: payload.line("url", MAX_URL),
        },
    })
}

/// In any form: RFC 3339, or seconds since the epoch, as a rule.
fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => Timestamp::parse_any(text),
        number => Timestamp::from_unix_number(number.as_f64()?),
    }
}

/// What the identities of these events begin with.
pub const IDENTITY: &str = "generic/";

struct Payload<'a>(&'a Value);

impl<'a> Payload<'a> {
    fn str(&self, name: &str) -> Option<&'a str> {
        self.0.get(name)?.as_str()
    }

    fn line(&self, name: &str, cap: usize) -> Option<String> {
        sanitize::line(self.str(name)?, cap)
    }

    fn is(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const REPORTED: Timestamp = Timestamp::from_secs(1_789_387_300);

    fn event(data: Value) -> ProviderEvent {
        decode(&data, "message/0", REPORTED).unwrap()
    }

    #[test]
    fn every_field_has_its_place() {
        let whole = event(json!({
            "event": "bounced", "id": "e-1", "time": "2026-09-14T14:00:03.5+02:00", "recipient": " ada@example.net ",
            "tracking_id": "01K54Z8Q3V7N5X9B2C6D8F0GHJ", "message_id": "<a@b>", "by_machine": true, "test_mode": true,
            "name": "hard", "code": 550, "enhanced": "5.1.1", "text": "no\nuser", "host": "mx1", "url": "https://a"
        }));
        let text = |text: &str| Some(text.to_owned());
        let diagnostic = Diagnostic {
            name: "hard".into(),
            code: Some(550),
            enhanced_status: text("5.1.1"),
            text: text("no user"),
            host: text("mx1"),
            url: text("https://a"),
        };
        assert_eq!(
            whole,
            ProviderEvent {
                kind: EventKind::Bounced,
                at: Timestamp::from_millis(1_789_387_203_500),
                dedup_key: "generic/e-1".into(),
                recipient: text("ada@example.net"),
                tracking_id: "01K54Z8Q3V7N5X9B2C6D8F0GHJ".parse().ok(),
                message_id: MessageId::parse("a@b"),
                automated: true,
                test_mode: true,
                diagnostic,
            }
        );
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let bare = event(json!({"event": "delivered"}));
        assert_eq!(
            (bare.kind, bare.at, bare.dedup_key.as_str()),
            (EventKind::Delivered, REPORTED, "generic/message/0")
        );
        assert_eq!(
            (bare.diagnostic.name.as_str(), bare.recipient, bare.automated),
            ("delivered", None, false)
        );
        for none in [json!({}), json!({"event": null}), json!([]), json!(7)] {
            assert_eq!(decode(&none, "", REPORTED), None, "{none}");
        }
    }

    #[test]
    fn all_words_of_the_vocabulary_and_others_are_taken() {
        for kind in EventKind::ALL {
            assert_eq!(event(json!({"event": kind.as_str()})).kind, kind);
        }
        assert_eq!(event(json!({"event": "Bounced"})).kind, EventKind::Unknown);
    }

    #[test]
    fn times_are_dates_or_seconds() {
        let at = |time: Value| event(json!({"event": "opened", "time": time})).at.as_millis();
        assert_eq!(at(json!(1_789_387_203)), 1_789_387_203_000);
        assert_eq!(at(json!(1_789_387_203.179)), 1_789_387_203_179);
        assert_eq!(at(json!("2026-09-14T12:00:03Z")), 1_789_387_203_000);
        for odd in [json!("yesterday"), json!(-1), json!(1e300), json!(null), json!([])] {
            assert_eq!(at(odd.clone()), REPORTED.as_millis(), "{odd}");
        }
    }
}
