use crate::provider::brevo::tracking_header::{HEADER, tracking};
use crate::provider::is_listed;
use crate::provider::sanitize::strip_prefix_ignoring_case;
use mailtrail_mail::Header;

/// Whether a client's field is a request that may not reach Brevo: `X-Sib-Sandbox` silences mail, `sender.ip` spends
/// money. In `allowed` stands what follows `X-Mailin-` or `X-Sib-`; `sender.ip` is among them as `*` only.
///
/// A tag always passes, and so does an `X-Mailin-custom`, unless it claims our own id, which would join the events to
/// another send, or is not ASCII, which can make the mail undeliverable.
pub fn is_foreign_request(field: &Header<'_>, allowed: &[String]) -> bool {
    if field.name.eq_ignore_ascii_case(HEADER) {
        return !field.value.is_ascii() || tracking(&field.text()).is_some();
    }
    let prefixed = PREFIXES.iter().find_map(|prefix| strip_prefix_ignoring_case(field.name, prefix));
    let request = prefixed.or_else(|| field.name.eq_ignore_ascii_case(SENDER_IP).then_some(SENDER_IP));
    request.is_some_and(|request| !request.eq_ignore_ascii_case("Tag") && !is_listed(request, allowed))
}

const PREFIXES: [&str; 2] = ["X-Mailin-", "X-Sib-"];
const SENDER_IP: &str = "sender.ip";

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::HeaderBlock;

    #[test]
    fn requests_that_could_harm_pass_only_where_they_are_allowed() {
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
            let field = HeaderBlock::of(message.as_bytes()).fields().next().unwrap();
            assert_eq!(is_foreign_request(&field, &[allowed.to_owned()]), foreign, "{message:?} {allowed:?}");
        }
    }
}
