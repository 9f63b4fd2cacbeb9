//! Internal mail that takes the path of client mail to verify delivery: test mail and heartbeats.

use futures_util::future::BoxFuture;
use mailtrail_mail::{Envelope, Mailbox, TrackingId};
use std::sync::Arc;

/// Function that submits a message on the path of client mail. Returns the tracking id of the stored
/// message, or the refusal that a client would receive.
pub type SubmitFn =
    Arc<dyn Fn(Envelope, Vec<u8>) -> BoxFuture<'static, Result<TrackingId, String>> + Send + Sync>;

/// Composes a message with that subject and that line of text, both ASCII, for one recipient. Date,
/// Message-ID and other fields are added at submission.
pub fn compose_message(from: &Mailbox, to: &Mailbox, subject: &str, text: &str) -> (Envelope, Vec<u8>) {
    let envelope = Envelope {
        smtputf8: !from.is_ascii() || !to.is_ascii(),
        sender: Some(from.clone()),
        recipients: vec![to.clone()],
        ..Envelope::default()
    };
    let lines = [
        &format!("From: <{from}>"),
        &format!("To: <{to}>"),
        &format!("Subject: {subject}"),
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        text,
        "",
    ];
    (envelope, lines.join("\r\n").into_bytes())
}
