use super::stamp::{VARIABLE, VARIABLES_HEADER};
use crate::mail::{Header, HeaderBlock};
use serde_json::Value;
use std::ops::Range;

/// The client's `X-Mailgun-*` fields that may not reach Mailgun, in their order. Such a field can copy mail
/// out (`Archive-To`), silence it (`Drop-Message`) or spend money, and whoever can inject a header line could
/// use it.
///
/// `allowed` names what may follow `X-Mailgun-`, without regard to case; a final `*` stands for any rest
/// (`Tag`, `Track*`). User variables always pass, unless they are no JSON object (Mailgun would not read them
/// either) or claim our own variable, which would join the events to another send.
pub fn foreign_request_headers(block: HeaderBlock<'_>, allowed: &[String]) -> Vec<Range<usize>> {
    block.fields().filter(|field| is_foreign(field, allowed)).map(|field| field.span).collect()
}

fn is_foreign(field: &Header<'_>, allowed: &[String]) -> bool {
    if field.name.eq_ignore_ascii_case(VARIABLES_HEADER) {
        return !are_the_clients_own_variables(&field.text());
    }
    let Some(request) = strip_prefix_ignoring_case(field.name, PREFIX) else { return false };
    !allowed.iter().any(|pattern| matches(pattern, request))
}

fn are_the_clients_own_variables(json: &str) -> bool {
    match serde_json::from_str(json) {
        Ok(Value::Object(variables)) => !variables.contains_key(VARIABLE),
        _ => false,
    }
}

fn matches(pattern: &str, request: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => strip_prefix_ignoring_case(request, start).is_some(),
        None => request.eq_ignore_ascii_case(pattern),
    }
}

pub(super) fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

pub(super) const PREFIX: &str = "X-Mailgun-";

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(fields: &str, allowed: &[&str]) -> Vec<String> {
        let message = format!("{fields}\r\nX-Mailgun-Tag: in the body\r\n");
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        let spans = foreign_request_headers(HeaderBlock::of(message.as_bytes()), &allowed);
        spans.into_iter().map(|span| message[span].to_owned()).collect()
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
