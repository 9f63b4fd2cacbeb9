use crate::provider::mailgun::tracking_header::VARIABLE;
use crate::provider::sanitize;
use crate::provider::sanitize::{MAX_KEY, MAX_TEXT, MAX_URL, MAX_WORD};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use mailtrail_mail::{MessageId, Timestamp, TrackingId};
use serde_json_borrow::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// Reads an event as webhooks and the Events API write it. Nothing in it can be wrong enough to be an error:
/// a field of an unexpected shape counts as absent, an unknown word is [`Kind::Unknown`], and an event
/// without a time happened when it was `reported`.
pub fn decode(data: &Value<'_>, reported: Timestamp) -> ProviderEvent {
    let payload = Payload(data);
    let at = payload.at().unwrap_or(reported);
    let diagnostic = payload.words();
    let kind = payload.kind(diagnostic.code);
    // What names nobody and happened to one recipient did not happen to all.
    let hidden = || is_about_one(kind).then(String::new);
    ProviderEvent {
        kind,
        at,
        dedup_key: payload.identity(at),
        recipient: payload.recipient().or_else(hidden),
        tracking_id: payload.tracking(),
        message_id: payload.str("message/headers/message-id").and_then(MessageId::parse),
        automated: matches!(kind, EventKind::Opened | EventKind::Clicked) && payload.is_machine(),
        test_mode: diagnostic.code == Some(TEST_MODE) || payload.is_flagged("is-test-mode"),
        diagnostic,
    }
}

/// Why an event cannot be used where nothing else says when it happened, or that something did.
pub fn fault(data: &Value<'_>) -> Option<&'static str> {
    let payload = Payload(data);
    match (payload.str("event"), payload.at()) {
        (None, _) => Some("it is no event"),
        (Some(_), None) => Some("its time cannot be read"),
        (Some(_), Some(_)) => None,
    }
}

const fn is_about_one(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Accepted | EventKind::Rejected | EventKind::Stored | EventKind::Unknown)
}

/// The `event-data` object, read by paths: a step into what is no object finds nothing, so `null` and `[]` in an
/// object's place need no rule.
struct Payload<'a>(&'a Value<'a>);

impl<'a> Payload<'a> {
    fn kind(&self, code: Option<u16>) -> EventKind {
        match self.str("event").unwrap_or_default() {
            "accepted" => EventKind::Accepted,
            "delivered" => EventKind::Delivered,
            "failed" => self.failure(code),
            "rejected" => EventKind::Rejected,
            "opened" => EventKind::Opened,
            "clicked" => EventKind::Clicked,
            "unsubscribed" => EventKind::Unsubscribed,
            "complained" => EventKind::Complained,
            "stored" => EventKind::Stored,
            _ => EventKind::Unknown,
        }
    }

    fn failure(&self, code: Option<u16>) -> EventKind {
        let by_reason = self.str("reason").is_some_and(|reason| reason.starts_with("suppress-"));
        let suppressed = by_reason || code.is_some_and(|code| SUPPRESSED.contains(&code));
        match self.str("severity").unwrap_or_default() {
            "permanent" if suppressed => EventKind::Suppressed,
            "permanent" => EventKind::Bounced,
            "temporary" => EventKind::Deferred,
            _ => EventKind::Unknown,
        }
    }

    fn at(&self) -> Option<Timestamp> {
        let text: Cow<'_, str> = match self.at_path("timestamp")? {
            Value::Str(text) => text.as_ref().into(),
            // Sixteen digits fit a double: its shortest form is the microseconds that Mailgun wrote.
            number => number.to_string().into(),
        };
        let in_seconds =
            || decimal_millis(&text).filter(|millis| *millis < LATEST).map(Timestamp::from_millis);
        in_seconds().or_else(|| Timestamp::parse_any(&text))
    }

    /// Mailgun's id is unique within a day of one account; webhook, retry and Events API report the same one.
    fn identity(&self, at: Timestamp) -> String {
        let account = ["domain/name", "account/id"].into_iter().find_map(|path| self.key(path));
        let account = account.unwrap_or("-");
        let id = self.key("id").map_or_else(|| self.hash(), str::to_owned);
        format!("mailgun/{account}/{}/{id}", at.day_number())
    }

    /// The members keep their order, so the same event gives the same hash whatever signature it came with.
    fn hash(&self) -> String {
        let digest = Sha256::digest(self.0.to_string());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    /// The recipient; of an event about a whole message (`rejected`, `stored`) its only one. Empty where it is hidden.
    fn recipient(&self) -> Option<String> {
        let only = || match self.at_path("message/recipients")?.as_array()? {
            [only] => only.as_str(),
            _ => None,
        };
        // One that is no address names somebody all the same, and not everybody.
        self.str("recipient").or_else(only).map(|named| sanitize::address(named).unwrap_or_default())
    }

    fn tracking(&self) -> Option<TrackingId> {
        let variables = self.at_path("user-variables")?;
        let written = variables.as_str().and_then(|json| serde_json::from_str::<Value<'_>>(json).ok());
        member(written.as_ref().unwrap_or(variables), VARIABLE)?.as_str()?.trim().parse().ok()
    }

    fn is_machine(&self) -> bool {
        let robot = self.str("client-info/client-type") == Some("robot");
        robot || self.str("client-info/bot").is_some_and(|bot| !bot.trim().is_empty())
    }

    fn is_flagged(&self, flag: &str) -> bool {
        self.at_path("flags").and_then(|flags| member(flags, flag)?.as_bool()).unwrap_or(false)
    }

    fn words(&self) -> Diagnostic {
        let texts = ["delivery-status/message", "delivery-status/description", "reject/description"];
        Diagnostic {
            name: self.name(),
            code: self.code(),
            enhanced_status: self.enhanced(),
            text: texts.into_iter().find_map(|path| self.text(path, MAX_TEXT)),
            host: self.text("delivery-status/mx-host", MAX_WORD),
            url: self.text("url", MAX_URL),
        }
    }

    /// `failed/permanent/bounce`, as far as there is something to say.
    fn name(&self) -> String {
        let parts = ["event", "severity", "reason", "reject/reason"];
        let parts: Vec<_> = parts.iter().filter_map(|path| self.text(path, MAX_WORD)).collect();
        parts.join("/")
    }

    fn code(&self) -> Option<u16> {
        let code = match self.at_path("delivery-status/code")? {
            Value::Str(text) => text.trim().parse().ok(),
            number => number.as_i64().and_then(|code| u16::try_from(code).ok()),
        };
        code.filter(|code| *code != 0)
    }

    /// From its own field; old captures have it in the code's place, and some servers' answers at their beginning alone.
    fn enhanced(&self) -> Option<String> {
        let in_code = || self.text("delivery-status/code", MAX_WORD).filter(|code| code.contains('.'));
        let in_text = || sanitize::enhanced_status(self.str("delivery-status/message")?);
        self.text("delivery-status/enhanced-code", MAX_WORD).or_else(in_code).or_else(in_text)
    }

    fn at_path(&self, path: &str) -> Option<&'a Value<'a>> {
        path.split('/').try_fold(self.0, member)
    }

    fn str(&self, path: &str) -> Option<&'a str> {
        self.at_path(path)?.as_str()
    }

    /// A text that names something: short, printable, used whole or not at all.
    fn key(&self, path: &str) -> Option<&'a str> {
        let fine =
            |key: &&str| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        self.str(path).filter(fine)
    }

    /// A text for people.
    fn text(&self, path: &str, cap: usize) -> Option<String> {
        sanitize::line(self.str(path)?, cap)
    }
}

/// What an object says under that name.
pub(super) fn member<'a>(value: &'a Value<'a>, name: &str) -> Option<&'a Value<'a>> {
    value.as_object()?.get(name)
}

/// Seconds with a decimal fraction as whole milliseconds; digits beyond are cut off.
pub(super) fn decimal_millis(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if !seconds.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis =
        fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis)
}

/// The year 5138: a time beyond was no number of seconds.
const LATEST: u64 = 100_000_000_000_000;

/// Mailgun's own codes for addresses that bounced, unsubscribed or complained before.
pub(super) const SUPPRESSED: std::ops::RangeInclusive<u16> = 605..=607;

/// Mailgun's own code for a message it only pretended to send.
pub(super) const TEST_MODE: u16 = 650;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const REPORTED: Timestamp = Timestamp::from_secs(1_789_387_200);

    fn event(data: Value) -> ProviderEvent {
        decode(&(&data).into(), REPORTED)
    }

    #[test]
    fn times_are_decimals() {
        let at = |timestamp: Value| event(json!({"timestamp": timestamp})).at.as_millis();
        assert_eq!(at(json!(1_789_387_202)), 1_789_387_202_000);
        assert_eq!(at(json!("1789387202.5")), 1_789_387_202_500);
        assert_eq!(at(json!(" 1789387202.9999 ")), 1_789_387_202_999);
        assert_eq!(at(json!(1_789_387_202_500_u64)), 1_789_387_202_500);
        assert_eq!(at(json!("2026-09-14T12:00:02.5Z")), 1_789_387_202_500);
        for micros in (0..1_000_000).step_by(997) {
            let text = format!("{{\"timestamp\":1529006854.{micros:06}}}");
            let data = serde_json::from_str(&text).unwrap();
            assert_eq!(decode(&data, REPORTED).at.as_millis(), 1_529_006_854_000 + micros / 1000, "{text}");
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
            assert_eq!(at(odd.clone()), REPORTED.as_millis(), "{odd}");
        }
    }

    #[test]
    fn failures_are_told_apart() {
        let kind = |severity: &str, reason: &str, code: u16| {
            event(json!({
                "event": "failed", "severity": severity, "reason": reason, "delivery-status": {"code": code}
            }))
            .kind
        };
        assert_eq!(kind("permanent", "bounce", 550), EventKind::Bounced);
        assert_eq!(kind("permanent", "old", 607), EventKind::Suppressed);
        assert_eq!(kind("permanent", "suppress-something-new", 0), EventKind::Suppressed);
        assert_eq!(kind("temporary", "generic", 452), EventKind::Deferred);
        assert_eq!(kind("internal", "generic", 452), EventKind::Unknown);
        let late = event(
            json!({"event": "failed", "severity": "permanent", "envelope": {}, "delivery-status": null}),
        );
        assert_eq!(late.kind, EventKind::Bounced);
    }

    #[test]
    fn our_variable_comes_back_in_many_shapes() {
        let id = "01K54Z8Q3V7N5X9B2C6D8F0GHJ";
        let tracking = |variables: Value| event(json!({"user-variables": variables})).tracking_id;
        assert_eq!(tracking(json!({"mailtrail": id})), id.parse().ok());
        assert_eq!(tracking(json!(format!("{{\"mailtrail\": \"{id}\"}}"))), id.parse().ok());
        for odd in
            [json!({}), json!([]), json!(null), json!(id), json!("{"), json!({"mailtrail": 1}), json!([id])]
        {
            assert_eq!(tracking(odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn identity_is_account_day_and_id() {
        let whole =
            event(json!({"id": "abc", "timestamp": 86_400, "domain": {"name": "d"}, "account": {"id": "a"}}));
        assert_eq!(whole.dedup_key, "mailgun/d/1/abc");
        let plain = event(json!({"id": "abc", "timestamp": 86_399.999, "domain": []}));
        assert_eq!(plain.dedup_key, "mailgun/-/0/abc");
        let anonymous = |event_word: &str| event(json!({"event": event_word, "id": ""})).dedup_key;
        assert_eq!(anonymous("opened"), anonymous("opened"));
        assert_ne!(anonymous("opened"), anonymous("clicked"));
    }

    #[test]
    fn words_are_one_short_line() {
        let words = event(json!({
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
        let long = event(
            json!({"delivery-status": {"code": "421", "message": "", "description": "é".repeat(600) + "x"}}),
        );
        assert_eq!(long.diagnostic.code, Some(421));
        assert_eq!(long.diagnostic.text, Some("é".repeat(512)));
    }

    #[test]
    fn what_names_nobody_is_not_about_everybody() {
        for (word, recipient, expected) in [
            ("failed", json!(null), Some("")),
            ("opened", json!(7), Some("")),
            ("delivered", json!("a\u{0}@example.net"), Some("")),
            ("delivered", json!(" ada@example.net "), Some("ada@example.net")),
            ("accepted", json!(null), None),
        ] {
            let event = event(json!({"event": word, "severity": "permanent", "recipient": recipient}));
            assert_eq!(event.recipient.as_deref(), expected, "{word} {recipient}");
        }
    }

    #[test]
    fn a_refused_message_names_its_only_recipient() {
        let rejected = |recipients: Value| {
            event(json!({
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
    fn machines_are_told_from_people() {
        let by_machine =
            |word: &str, client: Value| event(json!({"event": word, "client-info": client})).automated;
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
