//! Mail that mailtrail writes itself. Alarm mail goes into the queue directly; test mail and heartbeats take the path of
//! client mail to verify it.
//!
//! DSNs are composed by `trail::dsn`; their bytes are fixed.

use futures_util::future::BoxFuture;
use lettre::message::SinglePart;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, Headers, MIME_VERSION_1_0, Subject};
use mailtrail_mail::{Envelope, Mailbox, TrackingId};
use std::sync::Arc;

/// Function that submits a message on the path of client mail. Returns the tracking id of the stored
/// message, or the refusal that a client would receive.
pub type SubmitFn =
    Arc<dyn Fn(Envelope, Vec<u8>) -> BoxFuture<'static, Result<TrackingId, String>> + Send + Sync>;

/// Composes a message of one line of text for one recipient. Date, Message-ID and other fields are added at submission.
pub(crate) fn compose_for_submission(
    from: &Mailbox,
    to: &Mailbox,
    subject: &str,
    text: &str,
) -> (Envelope, Vec<u8>) {
    let envelope = Envelope {
        smtputf8: !from.is_ascii() || !to.is_ascii(),
        sender: Some(from.clone()),
        recipients: vec![to.clone()],
        ..Envelope::default()
    };
    (envelope, compose(from, std::slice::from_ref(to), subject, text, &[]))
}

/// Composes a plain-text message. `fields` are further header fields with ASCII values.
///
/// [`lettre::Message`] itself is not used: it takes the date from the system's clock, and rejects addresses that SMTP
/// permits, such as a bare `postmaster`.
pub(crate) fn compose(
    from: &Mailbox,
    to: &[Mailbox],
    subject: &str,
    text: &str,
    fields: &[(&'static str, String)],
) -> Vec<u8> {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.clone()));
    }
    headers.insert_raw(address_field("From", std::slice::from_ref(from)));
    headers.insert_raw(address_field("To", to));
    headers.set(Subject::from(subject.to_owned()));
    let auto_submitted = HeaderName::new_from_ascii_str("Auto-Submitted");
    headers.insert_raw(HeaderValue::new(auto_submitted, AUTO_GENERATED.to_owned()));
    headers.set(MIME_VERSION_1_0);
    let part = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text.trim_end().to_owned());
    [headers.to_string().into_bytes(), part.formatted()].concat()
}

/// Returns a field with one address per line. A `Mailbox` has no control characters, so it cannot add a field; one with
/// UTF-8 is written as it is (RFC 6532).
fn address_field(name: &'static str, addresses: &[Mailbox]) -> HeaderValue {
    let list = addresses.iter().map(|address| format!("<{address}>")).collect::<Vec<_>>().join(",\r\n ");
    HeaderValue::dangerous_new_pre_encoded(HeaderName::new_from_ascii_str(name), list.clone(), list)
}

/// Prevents automatic replies (RFC 3834 section 5).
const AUTO_GENERATED: &str = "auto-generated";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composes_plain_text_with_encoded_subject() {
        let addresses: Vec<Mailbox> =
            ["postmaster", "jörg@my_host.example"].map(|text| text.parse().unwrap()).into();
        let fields = [("X-Mailtrail-Id", "1".to_owned()), ("Message-ID", "<1@relay.example.com>".to_owned())];
        let message = compose(&addresses[0], &addresses, "alarm: größer", "one\ntwo\n", &fields);
        assert_eq!(
            String::from_utf8(message).unwrap(),
            "X-Mailtrail-Id: 1\r\nMessage-ID: <1@relay.example.com>\r\nFrom: <postmaster>\r\n\
             To: <postmaster>,\r\n <jörg@my_host.example>\r\nSubject: alarm: =?utf-8?b?Z3LDtsOfZXI=?=\r\n\
             Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\none\r\ntwo\r\n"
        );
    }
}
