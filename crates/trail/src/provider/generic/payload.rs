use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_KEY_BYTES, MAX_TEXT_BYTES, MAX_TOKEN_BYTES, MAX_URL_BYTES};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp};
use serde_json::Value;

/// Decodes an event in the generic format; `None` for anything else. `otherwise` is the key of an event without `id`,
/// and `reported` the time of one without `time`. A field of another type counts as absent.
pub fn decode_event(data: &Value, otherwise: &str, reported: Timestamp) -> Option<ProviderEvent> {
    let payload = GenericPayload(data);
    let word = payload.line_field("event", MAX_TOKEN_BYTES)?;
    let kind = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or(EventKind::Unknown);
    let id = payload.line_field("id", MAX_KEY_BYTES);
    Some(ProviderEvent {
        kind,
        at: data.get("time").and_then(parse_time).unwrap_or(reported),
        dedup_key: format!("{DEDUP_KEY_PREFIX}{}", id.as_deref().unwrap_or(otherwise)),
        recipient: payload
            .str_field("recipient")
            .map(|named| sanitize::parse_address(named).unwrap_or_default()),
        tracking_id: payload.str_field("tracking_id").and_then(|id| id.trim().parse().ok()),
        message_id: payload.str_field("message_id").and_then(MessageId::parse),
        automated: payload.is_true("by_machine"),
        test_mode: payload.is_true("test_mode"),
        diagnostic: Diagnostic {
            name: payload.line_field("name", MAX_TOKEN_BYTES).unwrap_or(word),
            code: data.get("code").and_then(Value::as_u64).and_then(|code| code.try_into().ok()),
            enhanced_status: payload.line_field("enhanced", MAX_TOKEN_BYTES),
            text: payload.line_field("text", MAX_TEXT_BYTES),
            host: payload.line_field("host", MAX_TOKEN_BYTES),
            url: payload.line_field("url", MAX_URL_BYTES),
        },
    })
}

/// In any form: RFC 3339, or seconds since the epoch, as a rule.
fn parse_time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => Timestamp::parse_any(text),
        number => Timestamp::from_unix_number(number.as_f64()?),
    }
}

/// Prefix of the keys of these events.
pub const DEDUP_KEY_PREFIX: &str = "generic/";

struct GenericPayload<'a>(&'a Value);

impl<'a> GenericPayload<'a> {
    fn str_field(&self, name: &str) -> Option<&'a str> {
        self.0.get(name)?.as_str()
    }

    fn line_field(&self, name: &str, cap: usize) -> Option<String> {
        sanitize::clip_line(self.str_field(name)?, cap)
    }

    fn is_true(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const REPORTED_AT: Timestamp = Timestamp::from_secs(1_789_387_300);

    fn decode_json(data: Value) -> ProviderEvent {
        decode_event(&data, "message/0", REPORTED_AT).unwrap()
    }

    #[test]
    fn decodes_every_field() {
        let whole = decode_json(json!({
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
    fn missing_fields_have_defaults() {
        let bare = decode_json(json!({"event": "delivered"}));
        assert_eq!(
            (bare.kind, bare.at, bare.dedup_key.as_str()),
            (EventKind::Delivered, REPORTED_AT, "generic/message/0")
        );
        assert_eq!(
            (bare.diagnostic.name.as_str(), bare.recipient, bare.automated),
            ("delivered", None, false)
        );
        for none in [json!({}), json!({"event": null}), json!([]), json!(7)] {
            assert_eq!(decode_event(&none, "", REPORTED_AT), None, "{none}");
        }
    }

    #[test]
    fn accepts_known_and_unknown_event_types() {
        for kind in EventKind::ALL {
            assert_eq!(decode_json(json!({"event": kind.as_str()})).kind, kind);
        }
        assert_eq!(decode_json(json!({"event": "Bounced"})).kind, EventKind::Unknown);
    }

    #[test]
    fn parses_dates_and_seconds() {
        let at = |time: Value| decode_json(json!({"event": "opened", "time": time})).at.as_millis();
        assert_eq!(at(json!(1_789_387_203)), 1_789_387_203_000);
        assert_eq!(at(json!(1_789_387_203.179)), 1_789_387_203_179);
        assert_eq!(at(json!("2026-09-14T12:00:03Z")), 1_789_387_203_000);
        for odd in [json!("yesterday"), json!(-1), json!(1e300), json!(null), json!([])] {
            assert_eq!(at(odd.clone()), REPORTED_AT.as_millis(), "{odd}");
        }
    }
}
