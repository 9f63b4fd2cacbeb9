use crate::provider::brevo::tracking_header::parse_tracking_id;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_TEXT_BYTES, MAX_TOKEN_BYTES, MAX_URL_BYTES};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp, fold_address};
use serde_json::Value;

/// Decodes an event of a transactional webhook; `None` for anything else. A field of an unexpected type counts as
/// absent, an unknown event name is `Unknown`, and the time defaults to `reported` if it cannot be trusted.
pub fn decode_event(data: &Value, reported: Timestamp) -> Option<ProviderEvent> {
    let payload = BrevoPayload(data);
    let word = payload.line_field("event", MAX_TOKEN_BYTES)?;
    let (kind, automated) = parse_kind(&word);
    let reason = payload.str_field("reason").unwrap_or_default();
    Some(ProviderEvent {
        kind,
        at: payload.occurred_at().unwrap_or(reported),
        dedup_key: payload.dedup_key(&word, kind, automated),
        recipient: Some(payload.str_field("email").and_then(sanitize::parse_address).unwrap_or_default()),
        tracking_id: payload.str_field("X-Mailin-custom").and_then(parse_tracking_id),
        message_id: payload.str_field("message-id").and_then(MessageId::parse),
        automated,
        test_mode: false,
        diagnostic: Diagnostic {
            name: event_name(word, kind, reason),
            code: sanitize::find_reply_code(reason),
            enhanced_status: sanitize::find_enhanced_status(reason),
            text: sanitize::clip_line(reason, MAX_TEXT_BYTES),
            host: None,
            url: payload.line_field("link", MAX_URL_BYTES),
        },
    })
}

/// Webhooks, the calls that make them and the statistics have each their own spelling.
fn parse_kind(word: &str) -> (EventKind, bool) {
    let bare: String = word.chars().filter(|c| c.is_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    let kind = match bare.as_str() {
        "request" | "requests" | "sent" => EventKind::Accepted,
        "delivered" => EventKind::Delivered,
        "deferred" | "softbounce" | "softbounces" => EventKind::Deferred,
        "hardbounce" | "hardbounces" | "invalidemail" | "invalid" => EventKind::Bounced,
        "blocked" => EventKind::Suppressed,
        // Of the message or the account, mostly of the sender's address: the recipient's is not at fault.
        "error" => EventKind::Rejected,
        "spam" | "complaint" => EventKind::Complained,
        "opened" | "uniqueopened" => EventKind::Opened,
        "proxyopen" | "uniqueproxyopen" | "loadedbyproxy" => return (EventKind::Opened, true),
        "click" | "clicks" | "clicked" => EventKind::Clicked,
        "unsubscribed" | "unsubscribe" => EventKind::Unsubscribed,
        _ => EventKind::Unknown,
    };
    (kind, false)
}

/// Event name of `blocked`, with the cause of the block if the reason reveals it, such as `blocked/unsubscribed`.
fn event_name(word: String, kind: EventKind, reason: &str) -> String {
    let reason = reason.to_lowercase();
    let cause =
        BLOCK_REASONS.iter().find(|(phrase, _)| kind == EventKind::Suppressed && reason.contains(phrase));
    cause.map_or(word.clone(), |(_, cause)| format!("{word}/{cause}"))
}

struct BrevoPayload<'a>(&'a Value);

impl<'a> BrevoPayload<'a> {
    /// `ts`, `ts_event` and `date` are in the account's time zone, which is unknown.
    fn occurred_at(&self) -> Option<Timestamp> {
        ["ts_epoch", "s_epoch"].into_iter().find_map(|name| match self.0.get(name)? {
            Value::String(text) => Timestamp::parse_any(text),
            number => Timestamp::from_unix_number(number.as_f64()?),
        })
    }

    /// Key of an event. There is no id, so equal content is the same event. The statistics have seconds and other event
    /// names; both give the key of the webhook.
    fn dedup_key(&self, word: &str, kind: EventKind, by_machine: bool) -> String {
        let at = self.occurred_at().map(|at| at.as_secs().to_string());
        let at = at.or_else(|| self.0.get("ts").map(Value::to_string)).unwrap_or_default();
        let what = match kind {
            EventKind::Unknown => word,
            _ if by_machine => "opened-by-machine",
            kind => kind.as_str(),
        };
        let message_id = self.str_field("message-id").and_then(MessageId::parse);
        let message_id = message_id.as_ref().map_or("", MessageId::as_str);
        let [email, link] = ["email", "link"].map(|name| self.str_field(name).unwrap_or_default());
        format!("brevo/{}", sanitize::hash_parts(&[message_id, what, &fold_address(email), &at, link]))
    }

    fn str_field(&self, name: &str) -> Option<&'a str> {
        self.0.get(name)?.as_str()
    }

    fn line_field(&self, name: &str, cap: usize) -> Option<String> {
        sanitize::clip_line(self.str_field(name)?, cap)
    }
}

/// Causes in the reasons of `blocked`.
const BLOCK_REASONS: [(&str, &str); 7] = [
    ("unsubscri", "unsubscribed"),
    ("hard bounce", "hard-bounce"),
    ("hardbounce", "hard-bounce"),
    ("hard_bounce", "hard-bounce"),
    ("spam", "spam"),
    ("complain", "spam"),
    ("blacklist", "blacklist"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const REPORTED_AT: Timestamp = Timestamp::from_secs(1_789_387_300);

    fn decode_json(data: Value) -> ProviderEvent {
        decode_event(&data, REPORTED_AT).unwrap()
    }

    #[test]
    fn decodes_every_spelling() {
        for (kind, by_machine, words) in [
            (EventKind::Accepted, false, &["request", "sent", "requests"][..]),
            (EventKind::Delivered, false, &["delivered"]),
            (EventKind::Deferred, false, &["deferred", "soft_bounce", "softBounce", "softBounces"]),
            (
                EventKind::Bounced,
                false,
                &["hard_bounce", "hardBounce", "hardBounces", "invalid_email", "invalid"],
            ),
            (EventKind::Suppressed, false, &["blocked"]),
            (EventKind::Rejected, false, &["error"]),
            (EventKind::Complained, false, &["spam", "complaint"]),
            (EventKind::Opened, false, &["opened", "unique_opened", "uniqueOpened"]),
            (EventKind::Opened, true, &["proxy_open", "unique_proxy_open", "loadedByProxy"]),
            (EventKind::Clicked, false, &["click", "clicks"]),
            (EventKind::Unsubscribed, false, &["unsubscribed", "unsubscribe"]),
            (EventKind::Unknown, false, &["list_addition", "listAddition", "é", "news"]),
        ] {
            for word in words {
                let event = decode_json(json!({"event": word}));
                assert_eq!((event.kind, event.automated), (kind, by_machine), "{word}");
            }
        }
        for none in
            [json!({}), json!({"event": 1}), json!({"event": " "}), json!([]), json!(null), json!("click")]
        {
            assert_eq!(decode_event(&none, REPORTED_AT), None, "{none}");
        }
    }

    #[test]
    fn parses_milliseconds_and_seconds() {
        let at = |fields: Value| {
            decode_json(json!({"event": "click", "ts": 1, "date": "2026-09-14 14:00:03", "f": fields}))
        };
        assert_eq!(at(json!(1)).at, REPORTED_AT);
        for (field, time, millis) in [
            ("ts_epoch", json!(1_789_387_203_179_u64), 1_789_387_203_179),
            ("ts_epoch", json!("1789387203179"), 1_789_387_203_179),
            ("ts_epoch", json!(1_789_387_203), 1_789_387_203_000),
            ("s_epoch", json!(1_789_387_203.5), 1_789_387_203_500),
            ("s_epoch", json!(1_789_387_203_179_u64), 1_789_387_203_179),
            ("ts_epoch", json!(-1), REPORTED_AT.as_millis()),
            ("ts_epoch", json!(1e300), REPORTED_AT.as_millis()),
            ("ts_epoch", json!("nan"), REPORTED_AT.as_millis()),
            ("ts_event", json!(1_789_387_203), REPORTED_AT.as_millis()),
        ] {
            assert_eq!(
                decode_json(json!({"event": "click", field: time})).at.as_millis(),
                millis,
                "{field}: {time}"
            );
        }
    }

    #[test]
    fn equal_content_has_equal_dedup_key() {
        let base = json!({"event": "click", "email": "Ada@example.net", "message-id": "<a@b>", "ts_epoch": 1_789_387_203_179_u64,
            "link": "https://a"});
        let with = |field: &str, value: Value| {
            let mut other = base.clone();
            other[field] = value;
            decode_json(other).dedup_key
        };
        let same = decode_json(base.clone()).dedup_key;
        assert_eq!(with("id", json!(7)), same);
        assert_eq!(with("event", json!("clicks")), same);
        assert_eq!(with("message-id", json!("a@b")), same);
        assert_eq!(with("ts_epoch", json!(1_789_387_203_000_u64)), same);
        assert_eq!(with("email", json!("ada@example.net")), same);
        for (field, value) in [
            ("event", json!("opened")),
            ("email", json!("eve@example.net")),
            ("message-id", json!("<c@d>")),
            ("ts_epoch", json!(1_789_387_204_179_u64)),
            ("link", json!("https://b")),
        ] {
            assert_ne!(with(field, value), same, "{field}");
        }
        let undated = |ts: u64| decode_json(json!({"event": "list_addition", "ts": ts})).dedup_key;
        assert_ne!(undated(1), undated(2));
    }

    #[test]
    fn extracts_codes_and_causes_from_reasons() {
        let words =
            |word: &str, reason: &str| decode_json(json!({"event": word, "reason": reason})).diagnostic;
        let bounced = words("hard_bounce", " 550-5.1.1 No such user.\n550 5.1.1 Learn more ");
        assert_eq!((bounced.code, bounced.enhanced_status.as_deref()), (Some(550), Some("5.1.1")));
        assert_eq!(bounced.text.as_deref(), Some("550-5.1.1 No such user. 550 5.1.1 Learn more"));
        for (reason, name) in [
            ("blocked : due to unsubscribed user", "blocked/unsubscribed"),
            ("blocked : due to Hard Bounce", "blocked/hard-bounce"),
            ("contact flagged as spam", "blocked/spam"),
            ("blocked : due to blacklist user", "blocked/blacklist"),
            ("", "blocked"),
        ] {
            assert_eq!(words("blocked", reason).name, name);
        }
        assert_eq!(words("soft_bounce", "looks like spam").name, "soft_bounce");
    }

    #[test]
    fn hidden_address_is_empty() {
        for hidden in [json!(""), json!(" "), json!(null), json!(7), json!("a\nb@c")] {
            let event = decode_json(json!({"event": "proxy_open", "email": hidden}));
            assert_eq!(event.recipient.as_deref(), Some(""), "{hidden}");
        }
    }
}
