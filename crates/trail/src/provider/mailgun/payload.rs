use crate::provider::mailgun::tracking_header::TRACKING_VARIABLE;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_KEY_BYTES, MAX_TEXT_BYTES, MAX_TOKEN_BYTES, MAX_URL_BYTES};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp, TrackingId};
use serde_json_borrow::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// Decodes an event of webhooks and of the Events API. No content is an error: a field of an unexpected type counts as
/// absent, an unknown event name is `Unknown`, and the time defaults to `reported`.
pub fn decode_event(data: &Value<'_>, reported: Timestamp) -> ProviderEvent {
    let payload = MailgunPayload(data);
    let at = payload.occurred_at().unwrap_or(reported);
    let diagnostic = payload.diagnostic();
    let kind = payload.event_kind(diagnostic.code);
    // An event of one recipient without an address does not concern all recipients.
    let hidden = || is_per_recipient(kind).then(String::new);
    ProviderEvent {
        kind,
        at,
        dedup_key: payload.dedup_key(at),
        recipient: payload.recipient().or_else(hidden),
        tracking_id: payload.tracking_id(),
        message_id: payload.str_at("message/headers/message-id").and_then(MessageId::parse),
        automated: matches!(kind, EventKind::Opened | EventKind::Clicked) && payload.is_automated(),
        test_mode: diagnostic.code == Some(TEST_MODE_CODE) || payload.has_flag("is-test-mode"),
        diagnostic,
    }
}

/// Returns the reason for which an event is unusable without another source for its type and time.
pub fn validate_payload(data: &Value<'_>) -> Option<&'static str> {
    let payload = MailgunPayload(data);
    match (payload.str_at("event"), payload.occurred_at()) {
        (None, _) => Some("it is no event"),
        (Some(_), None) => Some("its time cannot be read"),
        (Some(_), Some(_)) => None,
    }
}

const fn is_per_recipient(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Accepted | EventKind::Rejected | EventKind::Stored | EventKind::Unknown)
}

/// The `event-data` object, read by paths: a step into a value that is not an object finds nothing, so `null` and `[]`
/// need no special case.
struct MailgunPayload<'a>(&'a Value<'a>);

impl<'a> MailgunPayload<'a> {
    fn event_kind(&self, code: Option<u16>) -> EventKind {
        match self.str_at("event").unwrap_or_default() {
            "accepted" => EventKind::Accepted,
            "delivered" => EventKind::Delivered,
            "failed" => self.failure_kind(code),
            "rejected" => EventKind::Rejected,
            "opened" => EventKind::Opened,
            "clicked" => EventKind::Clicked,
            "unsubscribed" => EventKind::Unsubscribed,
            "complained" => EventKind::Complained,
            "stored" => EventKind::Stored,
            _ => EventKind::Unknown,
        }
    }

    fn failure_kind(&self, code: Option<u16>) -> EventKind {
        let by_reason = self.str_at("reason").is_some_and(|reason| reason.starts_with("suppress-"));
        let suppressed = by_reason || code.is_some_and(|code| SUPPRESSED_CODES.contains(&code));
        match self.str_at("severity").unwrap_or_default() {
            "permanent" if suppressed => EventKind::Suppressed,
            "permanent" => EventKind::Bounced,
            "temporary" => EventKind::Deferred,
            _ => EventKind::Unknown,
        }
    }

    fn occurred_at(&self) -> Option<Timestamp> {
        let text: Cow<'_, str> = match self.value_at("timestamp")? {
            Value::Str(text) => text.as_ref().into(),
            // Sixteen digits fit a double: its shortest form is the microseconds that Mailgun wrote.
            number => number.to_string().into(),
        };
        let in_seconds = || {
            parse_decimal_millis(&text)
                .filter(|millis| *millis < MAX_EVENT_TIME_MS)
                .map(Timestamp::from_millis)
        };
        in_seconds().or_else(|| Timestamp::parse_any(&text))
    }

    /// Key of an event. Mailgun's id is unique within a day and account; webhook, retry and Events API have the same
    /// one.
    fn dedup_key(&self, at: Timestamp) -> String {
        let account = ["domain/name", "account/id"].into_iter().find_map(|path| self.token_at(path));
        let account = account.unwrap_or("-");
        let id = self.token_at("id").map_or_else(|| self.content_hash(), str::to_owned);
        format!("mailgun/{account}/{}/{id}", at.day_number())
    }

    /// The members keep their order, so an event has the same hash with any signature.
    fn content_hash(&self) -> String {
        let digest = Sha256::digest(self.0.to_string());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    /// The recipient; of an event about a whole message (`rejected`, `stored`) its only one. Empty where it is hidden.
    fn recipient(&self) -> Option<String> {
        let only = || match self.value_at("message/recipients")?.as_array()? {
            [only] => only.as_str(),
            _ => None,
        };
        // An invalid address still names one recipient, not all.
        self.str_at("recipient").or_else(only).map(|named| sanitize::parse_address(named).unwrap_or_default())
    }

    fn tracking_id(&self) -> Option<TrackingId> {
        let variables = self.value_at("user-variables")?;
        let written = variables.as_str().and_then(|json| serde_json::from_str::<Value<'_>>(json).ok());
        get_member(written.as_ref().unwrap_or(variables), TRACKING_VARIABLE)?.as_str()?.trim().parse().ok()
    }

    fn is_automated(&self) -> bool {
        let robot = self.str_at("client-info/client-type") == Some("robot");
        robot || self.str_at("client-info/bot").is_some_and(|bot| !bot.trim().is_empty())
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.value_at("flags").and_then(|flags| get_member(flags, flag)?.as_bool()).unwrap_or(false)
    }

    fn diagnostic(&self) -> Diagnostic {
        let texts = ["delivery-status/message", "delivery-status/description", "reject/description"];
        Diagnostic {
            name: self.event_name(),
            code: self.reply_code(),
            enhanced_status: self.enhanced_status(),
            text: texts.into_iter().find_map(|path| self.text_at(path, MAX_TEXT_BYTES)),
            host: self.text_at("delivery-status/mx-host", MAX_TOKEN_BYTES),
            url: self.text_at("url", MAX_URL_BYTES),
        }
    }

    /// Event name with its details, such as `failed/permanent/bounce`.
    fn event_name(&self) -> String {
        let parts = ["event", "severity", "reason", "reject/reason"];
        let parts: Vec<_> = parts.iter().filter_map(|path| self.text_at(path, MAX_TOKEN_BYTES)).collect();
        parts.join("/")
    }

    fn reply_code(&self) -> Option<u16> {
        let code = match self.value_at("delivery-status/code")? {
            Value::Str(text) => text.trim().parse().ok(),
            number => number.as_i64().and_then(|code| u16::try_from(code).ok()),
        };
        code.filter(|code| *code != 0)
    }

    /// From its own field; old captures have it in the code's place, and some servers' answers at their beginning alone.
    fn enhanced_status(&self) -> Option<String> {
        let in_code =
            || self.text_at("delivery-status/code", MAX_TOKEN_BYTES).filter(|code| code.contains('.'));
        let in_text = || sanitize::find_enhanced_status(self.str_at("delivery-status/message")?);
        self.text_at("delivery-status/enhanced-code", MAX_TOKEN_BYTES).or_else(in_code).or_else(in_text)
    }

    fn value_at(&self, path: &str) -> Option<&'a Value<'a>> {
        path.split('/').try_fold(self.0, get_member)
    }

    fn str_at(&self, path: &str) -> Option<&'a str> {
        self.value_at(path)?.as_str()
    }

    /// A text that names something: short, printable, used whole or not at all.
    fn token_at(&self, path: &str) -> Option<&'a str> {
        let fine = |key: &&str| {
            (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
        };
        self.str_at(path).filter(fine)
    }

    /// A text for people.
    fn text_at(&self, path: &str, cap: usize) -> Option<String> {
        sanitize::clip_line(self.str_at(path)?, cap)
    }
}

/// Returns the value of a member of an object.
pub(super) fn get_member<'a>(value: &'a Value<'a>, name: &str) -> Option<&'a Value<'a>> {
    value.as_object()?.get(name)
}

/// Seconds with a decimal fraction as whole milliseconds; digits beyond are cut off.
pub(super) fn parse_decimal_millis(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if !seconds.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis =
        fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis)
}

/// The year 5138: a time beyond was no number of seconds.
const MAX_EVENT_TIME_MS: u64 = 100_000_000_000_000;

/// Mailgun's own codes for addresses that bounced, unsubscribed or complained before.
pub(super) const SUPPRESSED_CODES: std::ops::RangeInclusive<u16> = 605..=607;

/// Mailgun's own code for a message it only pretended to send.
pub(super) const TEST_MODE_CODE: u16 = 650;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const REPORTED_AT: Timestamp = Timestamp::from_secs(1_789_387_200);

    fn decode_json(data: Value) -> ProviderEvent {
        decode_event(&(&data).into(), REPORTED_AT)
    }

    #[test]
    fn parses_decimal_times() {
        let at = |timestamp: Value| decode_json(json!({"timestamp": timestamp})).at.as_millis();
        assert_eq!(at(json!(1_789_387_202)), 1_789_387_202_000);
        assert_eq!(at(json!("1789387202.5")), 1_789_387_202_500);
        assert_eq!(at(json!(" 1789387202.9999 ")), 1_789_387_202_999);
        assert_eq!(at(json!(1_789_387_202_500_u64)), 1_789_387_202_500);
        assert_eq!(at(json!("2026-09-14T12:00:02.5Z")), 1_789_387_202_500);
        for micros in (0..1_000_000).step_by(997) {
            let text = format!("{{\"timestamp\":1529006854.{micros:06}}}");
            let data = serde_json::from_str(&text).unwrap();
            assert_eq!(
                decode_event(&data, REPORTED_AT).at.as_millis(),
                1_529_006_854_000 + micros / 1000,
                "{text}"
            );
        }
        for odd in [
            json!(null),
            json!(-1),
            json!(1e300),
            json!("+1"),
            json!(""),
            json!("."),
            json!("é.1"),
            json!([]),
        ] {
            assert_eq!(at(odd.clone()), REPORTED_AT.as_millis(), "{odd}");
        }
    }

    #[test]
    fn classifies_failures() {
        let kind = |severity: &str, reason: &str, code: u16| {
            decode_json(json!({
                "event": "failed", "severity": severity, "reason": reason, "delivery-status": {"code": code}
            }))
            .kind
        };
        assert_eq!(kind("permanent", "bounce", 550), EventKind::Bounced);
        assert_eq!(kind("permanent", "old", 607), EventKind::Suppressed);
        assert_eq!(kind("permanent", "suppress-something-new", 0), EventKind::Suppressed);
        assert_eq!(kind("temporary", "generic", 452), EventKind::Deferred);
        assert_eq!(kind("internal", "generic", 452), EventKind::Unknown);
        let late = decode_json(
            json!({"event": "failed", "severity": "permanent", "envelope": {}, "delivery-status": null}),
        );
        assert_eq!(late.kind, EventKind::Bounced);
    }

    #[test]
    fn finds_tracking_id_in_every_shape() {
        let id = "01K54Z8Q3V7N5X9B2C6D8F0GHJ";
        let tracking = |variables: Value| decode_json(json!({"user-variables": variables})).tracking_id;
        assert_eq!(tracking(json!({"mailtrail": id})), id.parse().ok());
        assert_eq!(tracking(json!(format!("{{\"mailtrail\": \"{id}\"}}"))), id.parse().ok());
        for odd in
            [json!({}), json!([]), json!(null), json!(id), json!("{"), json!({"mailtrail": 1}), json!([id])]
        {
            assert_eq!(tracking(odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn dedup_key_has_account_day_and_id() {
        let whole = decode_json(
            json!({"id": "abc", "timestamp": 86_400, "domain": {"name": "d"}, "account": {"id": "a"}}),
        );
        assert_eq!(whole.dedup_key, "mailgun/d/1/abc");
        let plain = decode_json(json!({"id": "abc", "timestamp": 86_399.999, "domain": []}));
        assert_eq!(plain.dedup_key, "mailgun/-/0/abc");
        let anonymous = |event_word: &str| decode_json(json!({"event": event_word, "id": ""})).dedup_key;
        assert_eq!(anonymous("opened"), anonymous("opened"));
        assert_ne!(anonymous("opened"), anonymous("clicked"));
    }

    #[test]
    fn diagnostic_is_one_short_line() {
        let words = decode_json(json!({
            "event": "failed", "severity": "permanent", "reason": "bounce",
            "url": "u".repeat(5000),
            "delivery-status": {"code": "5.1.1", "message": "no\r\nsuch\u{7} user",
                "mx-host": "mx1", "enhanced-code": null}
        }))
        .diagnostic;
        assert_eq!(words.name, "failed/permanent/bounce");
        assert_eq!((words.code, words.enhanced_status.as_deref()), (None, Some("5.1.1")));
        assert_eq!(words.text.as_deref(), Some("no  such  user"));
        assert_eq!(words.host.as_deref(), Some("mx1"));
        assert_eq!(words.url.map(|url| url.len()), Some(2048));
        let long = decode_json(
            json!({"delivery-status": {"code": "421", "message": "", "description": "é".repeat(600) + "x"}}),
        );
        assert_eq!(long.diagnostic.code, Some(421));
        assert_eq!(long.diagnostic.text, Some("é".repeat(512)));
    }

    #[test]
    fn event_without_recipient_has_no_recipients() {
        for (word, recipient, expected) in [
            ("failed", json!(null), Some("")),
            ("opened", json!(7), Some("")),
            ("delivered", json!("a\u{0}@example.net"), Some("")),
            ("delivered", json!(" ada@example.net "), Some("ada@example.net")),
            ("accepted", json!(null), None),
        ] {
            let event = decode_json(json!({"event": word, "severity": "permanent", "recipient": recipient}));
            assert_eq!(event.recipient.as_deref(), expected, "{word} {recipient}");
        }
    }

    #[test]
    fn rejected_message_has_its_only_recipient() {
        let rejected = |recipients: Value| {
            decode_json(json!({
                "event": "rejected", "reject": {"reason": "Sandbox", "description": "not allowed"},
                "message": {"recipients": recipients}
            }))
        };
        let one = rejected(json!(["ada@example.net"]));
        assert_eq!((one.kind, one.recipient.as_deref()), (EventKind::Rejected, Some("ada@example.net")));
        assert_eq!(
            (one.diagnostic.name.as_str(), one.diagnostic.text.as_deref()),
            ("rejected/Sandbox", Some("not allowed"))
        );
        assert_eq!(rejected(json!(["a@example.net", "b@example.net"])).recipient, None);
    }

    #[test]
    fn marks_automated_events() {
        let by_machine =
            |word: &str, client: Value| decode_json(json!({"event": word, "client-info": client})).automated;
        for bot in ["apple", "gmail", "generic"] {
            assert!(by_machine("opened", json!({"bot": bot})) && by_machine("clicked", json!({"bot": bot})));
        }
        assert!(by_machine("clicked", json!({"client-type": "robot"})));
        for person in [json!({"bot": ""}), json!({"bot": null}), json!({}), json!([]), json!(null)] {
            assert!(!by_machine("opened", person));
        }
        assert!(!by_machine("unsubscribed", json!({"bot": "generic"})));
    }
}
