use crate::provider::mailgun::tracking_header::{VARIABLE, VARIABLES_HEADER};
use crate::provider::sanitize::strip_prefix_ignoring_case;
use crate::provider::{SAFE_REQUESTS, is_listed};
use mailtrail_mail::{Header, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// Whether a client's field is a request that may not reach Mailgun. Such a field can copy mail out (`Archive-To`),
/// silence it (`Drop-Message`) or spend money, and whoever can inject a header line could use it.
///
/// User variables always pass, unless they are no JSON object (Mailgun would not read them either) or claim our own
/// variable, which would join the events to another send. Mailgun combines what several such fields say.
pub fn is_foreign_request(field: &Header<'_>, allowed: &[String], now: Timestamp) -> bool {
    if field.name.eq_ignore_ascii_case(VARIABLES_HEADER) {
        return !are_the_clients_own_variables(&field.text());
    }
    let Some(request) = strip_prefix_ignoring_case(field.name, PREFIX) else { return false };
    let safe = || allowed.iter().any(|word| word == SAFE_REQUESTS) && is_safe(request, &field.text(), now);
    !is_listed(request, allowed) && !safe()
}

fn are_the_clients_own_variables(json: &str) -> bool {
    match serde_json::from_str(json) {
        Ok(Value::Object(variables)) => !variables.contains_key(VARIABLE),
        _ => false,
    }
}

/// Whether a request can neither lose, redirect nor weaken mail. A value that Mailgun does not know counts as harmful:
/// its HTTP API refuses the whole message for one. `Dkim: no` takes a signature away, `Require-TLS: no` encryption.
fn is_safe(request: &str, value: &str, now: Timestamp) -> bool {
    let is = |name: &str| request.eq_ignore_ascii_case(name);
    let one_of = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
    match () {
        () if is("Tag") => {
            (1..=TAG).contains(&value.len()) && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        }
        () if is("Track") || is("Track-Clicks") => one_of(&["yes", "no", "true", "false", "htmlonly"]),
        () if is("Track-Opens") => one_of(&["yes", "no", "true", "false"]),
        () if is("Dkim") || is("Require-TLS") => one_of(&["yes", "true"]),
        () if is("Deliver-By") => {
            Timestamp::parse_rfc5322(value).is_some_and(|at| at.duration_since(now) <= LONGEST_DELAY)
        }
        () => false,
    }
}

pub(super) const PREFIX: &str = "X-Mailgun-";
/// Characters of a tag.
const TAG: usize = 128;
/// How far ahead every account may have mail delivered.
const LONGEST_DELAY: Duration = Duration::from_secs(3 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderBlock;

    const NOW: Timestamp = Timestamp::from_secs(1_789_387_200);

    fn stripped(fields: &str, allowed: &[&str]) -> Vec<String> {
        let message = format!("{fields}\r\nX-Mailgun-Tag: in the body\r\n");
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        let block = HeaderBlock::of(message.as_bytes());
        let foreign = block.fields().filter(|field| is_foreign_request(field, &allowed, NOW));
        foreign.map(|field| message[field.span].to_owned()).collect()
    }

    #[test]
    fn requests_pass_only_where_they_are_allowed() {
        let fields = "To: a\r\nX-MAILGUN-TAG: b\r\nX-Mailgun-Track-Clicks : no\r\nX-Mailgun-Archive-To:\r\n\
             \thttps://evil.example\r\nX-Mailgunner: c\r\nX-Mailgun-Tagged: d\r\nX-Mailgun-: e\r\n";
        assert_eq!(stripped(fields, &[]).len(), 5);
        assert_eq!(
            stripped(fields, &["tag", "TRACK*"]),
            [
                "X-Mailgun-Archive-To:\r\n\thttps://evil.example\r\n",
                "X-Mailgun-Tagged: d\r\n",
                "X-Mailgun-: e\r\n"
            ]
        );
        assert!(stripped(fields, &["*"]).is_empty());
        assert_eq!(stripped(fields, &["é*"]).len(), 5);
        assert_eq!(stripped(fields, &["safe"]).len(), 3);
        assert_eq!(stripped(fields, &["safe", "Archive-To"]).len(), 2);
    }

    #[test]
    fn what_is_safe_depends_on_what_it_says() {
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
            assert_eq!(stripped(&field, &["safe"]).is_empty(), safe, "{request}");
        }
        assert!(
            stripped("X-Mailgun-Dkim: no\r\n", &["safe", "Dkim"]).is_empty(),
            "an operator may allow all"
        );
    }

    #[test]
    fn variables_pass_unless_they_claim_ours() {
        for kept in
            [r#"{"odoo_db": "prod",\r\n "tracking_email_id": 4711}"#, "{}", r#"{"a":{"mailtrail":1}}"#]
        {
            let field = format!("X-Mailgun-Variables: {}\r\n", kept.replace("\\r\\n", "\r\n"));
            assert!(stripped(&field, &[]).is_empty(), "{kept}");
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
            assert_eq!(stripped(&field, &["*"]), [field.as_str()], "{gone}");
        }
    }
}
