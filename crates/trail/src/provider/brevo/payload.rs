use crate::provider::brevo::tracking_header::tracking;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_TEXT, MAX_URL, MAX_WORD};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp, fold_address};
use serde_json::Value;

/// Reads an event of a transactional webhook; `None` for what is none. A field of an unexpected shape counts as absent,
/// an unknown word is [`Kind::Unknown`], and an event without a time that can be trusted happened when it was
/// `reported`.
pub fn decode(data: &Value, reported: Timestamp) -> Option<ProviderEvent> {
    let payload = Payload(data);
    let word = payload.line("event", MAX_WORD)?;
    let (kind, automated) = kind(&word);
    let reason = payload.str("reason").unwrap_or_default();
    Some(ProviderEvent {
        kind,
        at: payload.at().unwrap_or(reported),
        dedup_key: payload.identity(&word, kind, automated),
        recipient: Some(payload.str("email").and_then(sanitize::address).unwrap_or_default()),
        tracking_id: payload.str("X-Mailin-custom").and_then(tracking),
        message_id: payload.str("message-id").and_then(MessageId::parse),
        automated,
        test_mode: false,
        diagnostic: Diagnostic {
            name: name(word, kind, reason),
            code: sanitize::reply_code(reason),
            enhanced_status: sanitize::enhanced_status(reason),
            text: sanitize::line(reason, MAX_TEXT),
            host: None,
            url: payload.line("link", MAX_URL),
        },
    })
}

/// Webhooks, the calls that make them and the statistics have each their own spelling.
fn kind(word: &str) -> (EventKind, bool) {
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

/// `blocked/unsubscribed`: with what put the address on the block list, as far as the reason tells.
fn name(word: String, kind: EventKind, reason: &str) -> String {
    let reason = reason.to_lowercase();
    let cause = BLOCKS.iter().find(|(phrase, _)| kind == EventKind::Suppressed && reason.contains(phrase));
    cause.map_or(word.clone(), |(_, cause)| format!("{word}/{cause}"))
}

struct Payload<'a>(&'a Value);

impl<'a> Payload<'a> {
    /// `ts`, `ts_event` and `date` are in the account's time zone, which nobody tells.
    fn at(&self) -> Option<Timestamp> {
        ["ts_epoch", "s_epoch"].into_iter().find_map(|name| match self.0.get(name)? {
            Value::String(text) => Timestamp::parse_any(text),
            number => Timestamp::from_unix_number(number.as_f64()?),
        })
    }

    /// There is no id: what counts as the same event says the same. The statistics tell seconds, and have other words for
    /// what happened; both give the identity that the webhook's has.
    fn identity(&self, word: &str, kind: EventKind, by_machine: bool) -> String {
        let at = self.at().map(|at| at.as_secs().to_string());
        let at = at.or_else(|| self.0.get("ts").map(Value::to_string)).unwrap_or_default();
        let what = match kind {
            EventKind::Unknown => word,
            _ if by_machine => "opened-by-machine",
            kind => kind.as_str(),
        };
        let message_id = self.str("message-id").and_then(MessageId::parse);
        let message_id = message_id.as_ref().map_or("", MessageId::as_str);
        let [email, link] = ["email", "link"].map(|name| self.str(name).unwrap_or_default());
        format!("brevo/{}", sanitize::digest(&[message_id, what, &fold_address(email), &at, link]))
    }

    fn str(&self, name: &str) -> Option<&'a str> {
        self.0.get(name)?.as_str()
    }

    fn line(&self, name: &str, cap: usize) -> Option<String> {
        sanitize::line(self.str(name)?, cap)
    }
}

/// What reasons of `blocked` speak of.
const BLOCKS: [(&str, &str); 7] = [
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

    const REPORTED: Timestamp = Timestamp::from_secs(1_789_387_300);

    fn event(data: Value) -> ProviderEvent {
        decode(&data, REPORTED).unwrap()
    }

    #[test]
    fn every_spelling_is_understood() {
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
                let event = event(json!({"event": word}));
                assert_eq!((event.kind, event.automated), (kind, by_machine), "{word}");
            }
        }
        for none in
            [json!({}), json!({"event": 1}), json!({"event": " "}), json!([]), json!(null), json!("click")]
        {
            assert_eq!(decode(&none, REPORTED), None, "{none}");
        }
    }

    #[test]
    fn times_are_milliseconds_or_seconds() {
        let at = |fields: Value| {
            event(json!({"event": "click", "ts": 1, "date": "2026-09-14 14:00:03", "f": fields}))
        };
        assert_eq!(at(json!(1)).at, REPORTED);
        for (field, time, millis) in [
            ("ts_epoch", json!(1_789_387_203_179_u64), 1_789_387_203_179),
            ("ts_epoch", json!("1789387203179"), 1_789_387_203_179),
            ("ts_epoch", json!(1_789_387_203), 1_789_387_203_000),
            ("s_epoch", json!(1_789_387_203.5), 1_789_387_203_500),
            ("s_epoch", json!(1_789_387_203_179_u64), 1_789_387_203_179),
            ("ts_epoch", json!(-1), REPORTED.as_millis()),
            ("ts_epoch", json!(1e300), REPORTED.as_millis()),
            ("ts_epoch", json!("nan"), REPORTED.as_millis()),
            ("ts_event", json!(1_789_387_203), REPORTED.as_millis()),
        ] {
            assert_eq!(
                event(json!({"event": "click", field: time})).at.as_millis(),
                millis,
                "{field}: {time}"
            );
        }
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let base = json!({"event": "click", "email": "Ada@example.net", "message-id": "<a@b>", "ts_epoch": 1_789_387_203_179_u64,
            "link": "https://a"});
        let with = |field: &str, value: Value| {
            let mut other = base.clone();
            other[field] = value;
            event(other).dedup_key
        };
        let same = event(base.clone()).dedup_key;
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
        let undated = |ts: u64| event(json!({"event": "list_addition", "ts": ts})).dedup_key;
        assert_ne!(undated(1), undated(2));
    }

    #[test]
    fn reasons_tell_codes_and_causes() {
        let words = |word: &str, reason: &str| event(json!({"event": word, "reason": reason})).diagnostic;
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
    fn an_address_that_is_hidden_is_empty() {
        for hidden in [json!(""), json!(" "), json!(null), json!(7), json!("a\nb@c")] {
            let event = event(json!({"event": "proxy_open", "email": hidden}));
            assert_eq!(event.recipient.as_deref(), Some(""), "{hidden}");
        }
    }
}
