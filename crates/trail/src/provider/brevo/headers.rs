use crate::provider::allowed_requests::is_allowed_request;
use crate::provider::brevo::tracking_header::{TRACKING_HEADER, parse_tracking_id};
use crate::provider::sanitize::strip_prefix_ignoring_case;
use mailtrail_mail::HeaderField;

/// Returns whether a client's field is a request that must not reach Brevo: `X-Sib-Sandbox` drops mail, `sender.ip`
/// costs money. `allowed` holds names after `X-Mailin-` or `X-Sib-`; `sender.ip` only matches `*`.
///
/// A tag always passes, and so does an `X-Mailin-custom`, unless it contains our own id, which would match the events
/// to another message, or is not ASCII, which can make the message undeliverable.
pub fn is_forbidden_request(field: &HeaderField<'_>, allowed: &[String]) -> bool {
    if field.name.eq_ignore_ascii_case(TRACKING_HEADER) {
        return !field.value.is_ascii() || parse_tracking_id(&field.to_text()).is_some();
    }
    let prefixed = REQUEST_PREFIXES.iter().find_map(|prefix| strip_prefix_ignoring_case(field.name, prefix));
    let request =
        prefixed.or_else(|| field.name.eq_ignore_ascii_case(SENDER_IP_HEADER).then_some(SENDER_IP_HEADER));
    request
        .is_some_and(|request| !request.eq_ignore_ascii_case("Tag") && !is_allowed_request(request, allowed))
}

const REQUEST_PREFIXES: [&str; 2] = ["X-Mailin-", "X-Sib-"];
const SENDER_IP_HEADER: &str = "sender.ip";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderSection;

    #[test]
    fn forbids_risky_requests_unless_allowed() {
        let ours = "mailtrail=01K54Z8Q3V7N5X9B2C6D8F0GHJ";
        for (field, allowed, foreign) in [
            ("X-Mailin-Tag: spring", "", false),
            ("x-mailin-TAG: spring", "safe", false),
            ("X-Mailin-custom: order:42", "", false),
            ("X-Mailin-custom: \u{e9}", "*", true),
            (&*format!("X-Mailin-Custom: {ours}"), "*", true),
            (&*format!("X-Mailin-custom : a|\r\n {ours}"), "safe", true),
            ("X-Sib-Sandbox: drop", "", true),
            ("X-Sib-Sandbox: drop", "safe", true),
            ("x-sib-sandbox: drop", "Sandbox", false),
            ("X-Mailin-New: 1", "safe", true),
            ("X-Mailin-New: 1", "new", false),
            ("Sender.IP: 192.0.2.1", "safe", true),
            ("sender.ip: 192.0.2.1", "*", false),
            ("Sender: a@example.com", "", false),
            ("X-Mailing: 1", "", false),
        ] {
            let message = format!("{field}\r\n\r\n");
            let field = HeaderSection::parse(message.as_bytes()).fields().next().unwrap();
            assert_eq!(
                is_forbidden_request(&field, &[allowed.to_owned()]),
                foreign,
                "{message:?} {allowed:?}"
            );
        }
    }
}
