use crate::provider::allowed_requests::{SAFE_REQUESTS_KEYWORD, is_allowed_request};
use crate::provider::mailgun::tracking_header::{TRACKING_VARIABLE, VARIABLES_HEADER};
use crate::provider::sanitize::strip_prefix_ignoring_case;
use mailtrail_mail::{HeaderField, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// Returns whether a client's field is a request that must not reach Mailgun. Such a field can copy mail
/// (`Archive-To`), drop it (`Drop-Message`) or cost money, and an injected header line could use it.
///
/// User variables always pass, unless they are no JSON object (Mailgun ignores those, too) or contain our own variable,
/// which would match the events to another message. Mailgun merges several such fields.
pub fn is_forbidden_request(field: &HeaderField<'_>, allowed: &[String], now: Timestamp) -> bool {
    if field.name.eq_ignore_ascii_case(VARIABLES_HEADER) {
        return !is_client_variables(&field.to_text());
    }
    let Some(request) = strip_prefix_ignoring_case(field.name, REQUEST_PREFIX) else { return false };
    let safe = || {
        allowed.iter().any(|word| word == SAFE_REQUESTS_KEYWORD)
            && is_safe_request(request, &field.to_text(), now)
    };
    !is_allowed_request(request, allowed) && !safe()
}

fn is_client_variables(json: &str) -> bool {
    match serde_json::from_str(json) {
        Ok(Value::Object(variables)) => !variables.contains_key(TRACKING_VARIABLE),
        _ => false,
    }
}

/// Returns whether a request can neither lose nor redirect nor weaken a message. An unknown value counts as harmful,
/// because Mailgun's HTTP API rejects the whole message. `Dkim: no` removes a signature, `Require-TLS: no` encryption.
fn is_safe_request(request: &str, value: &str, now: Timestamp) -> bool {
    let is = |name: &str| request.eq_ignore_ascii_case(name);
    let one_of = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
    match () {
        () if is("Tag") => {
            (1..=MAX_TAG_CHARS).contains(&value.len())
                && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        }
        () if is("Track") || is("Track-Clicks") => one_of(&["yes", "no", "true", "false", "htmlonly"]),
        () if is("Track-Opens") => one_of(&["yes", "no", "true", "false"]),
        () if is("Dkim") || is("Require-TLS") => one_of(&["yes", "true"]),
        () if is("Deliver-By") => {
            Timestamp::parse_rfc5322(value).is_some_and(|at| at.duration_since(now) <= MAX_DELIVERY_DELAY)
        }
        () => false,
    }
}

pub(super) const REQUEST_PREFIX: &str = "X-Mailgun-";
/// Characters of a tag.
const MAX_TAG_CHARS: usize = 128;
/// How far ahead every account may have mail delivered.
const MAX_DELIVERY_DELAY: Duration = Duration::from_secs(3 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderSection;

    const NOW: Timestamp = Timestamp::from_secs(1_789_387_200);

    fn stripped_fields(fields: &str, allowed: &[&str]) -> Vec<String> {
        let message = format!("{fields}\r\nX-Mailgun-Tag: in the body\r\n");
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        let block = HeaderSection::parse(message.as_bytes());
        let foreign = block.fields().filter(|field| is_forbidden_request(field, &allowed, NOW));
        foreign.map(|field| message[field.span].to_owned()).collect()
    }

    #[test]
    fn forbids_requests_unless_allowed() {
        let fields = "To: a\r\nX-MAILGUN-TAG: b\r\nX-Mailgun-Track-Clicks : no\r\nX-Mailgun-Archive-To:\r\n\
             \thttps://evil.example\r\nX-Mailgunner: c\r\nX-Mailgun-Tagged: d\r\nX-Mailgun-: e\r\n";
        assert_eq!(stripped_fields(fields, &[]).len(), 5);
        assert_eq!(
            stripped_fields(fields, &["tag", "TRACK*"]),
            [
                "X-Mailgun-Archive-To:\r\n\thttps://evil.example\r\n",
                "X-Mailgun-Tagged: d\r\n",
                "X-Mailgun-: e\r\n"
            ]
        );
        assert!(stripped_fields(fields, &["*"]).is_empty());
        assert_eq!(stripped_fields(fields, &["é*"]).len(), 5);
        assert_eq!(stripped_fields(fields, &["safe"]).len(), 3);
        assert_eq!(stripped_fields(fields, &["safe", "Archive-To"]).len(), 2);
    }

    #[test]
    fn safety_depends_on_value() {
        let long = "x".repeat(129);
        for (request, safe) in [
            ("Tag: spring sale", true),
            ("tag : x", true),
            ("Tag:", false),
            ("Tag: \u{e9}", false),
            (&*format!("Tag: {long}"), false),
            ("Track: no", true),
            ("Track: HTMLonly", true),
            ("Track: maybe", false),
            ("Track:", false),
            ("Track-Clicks: htmlonly", true),
            ("Track-Opens: false", true),
            ("Track-Opens: htmlonly", false),
            ("Track-Pixel-Location-Top: yes", false),
            ("Dkim: yes", true),
            ("Dkim: TRUE", true),
            ("Dkim: no", false),
            ("DKIM: off", false),
            ("Require-TLS: yes", true),
            ("Require-TLS: no", false),
            ("Require-TLS: yes, no", false),
            ("Deliver-By: Mon, 14 Sep 2026 11:00:00 +0000", true),
            ("Deliver-By: Thu, 17 Sep 2026 14:00:00\r\n +0200", true),
            ("Deliver-By: Thu, 17 Sep 2026 12:00:01 +0000", false),
            ("Deliver-By: Mon, 14 Sep 2036 11:00:00 +0000", false),
            ("Deliver-By: tomorrow", false),
            ("Deliver-Within: 1h", false),
            ("Secondary-DKIM: a,b", false),
            ("Skip-Verification: yes", false),
            ("Skip-Verification: no", false),
            ("Drop-Message: no", false),
            ("Recipient-Variables: {}", false),
            ("Sending-Ip: 192.0.2.1", false),
            ("Sending-Ip-Pool: x", false),
            ("Template-Name: x", false),
            ("Suppress-Headers: all", false),
            ("Archive-To: https://example.com", false),
            ("Time-Zone-Localize: 10:00", false),
            ("New-Thing: yes", false),
            ("safe: yes", false),
        ] {
            let field = format!("X-Mailgun-{request}\r\n");
            assert_eq!(stripped_fields(&field, &["safe"]).is_empty(), safe, "{request}");
        }
        assert!(
            stripped_fields("X-Mailgun-Dkim: no\r\n", &["safe", "Dkim"]).is_empty(),
            "an operator may allow all"
        );
    }

    #[test]
    fn allows_variables_without_our_key() {
        for kept in
            [r#"{"odoo_db": "prod",\r\n "tracking_email_id": 4711}"#, "{}", r#"{"a":{"mailtrail":1}}"#]
        {
            let field = format!("X-Mailgun-Variables: {}\r\n", kept.replace("\\r\\n", "\r\n"));
            assert!(stripped_fields(&field, &[]).is_empty(), "{kept}");
        }
        let forged = [
            r#"{"mailtrail":"01K54Z8Q3V7N5X9B2C6D8F0GHJ"}"#,
            r#"{"a":1, "mail\u0074rail":null}"#,
            "[]",
            "{\"a\":",
            "",
            "=?utf-8?q?=7B=7D?=",
        ];
        for gone in forged {
            let field = format!("x-mailgun-variables: {gone}\r\n");
            assert_eq!(stripped_fields(&field, &["*"]), [field.as_str()], "{gone}");
        }
    }
}
