//! Mail of our own that goes the way of clients' mail, to see whether it arrives: test mail and heartbeats.

use futures_util::future::BoxFuture;
use mailtrail_mail::{Envelope, Mailbox, TrackingId};
use std::sync::Arc;

/// What hands a message in by the way that clients' mail takes: the id under which it is kept, or what a client would be
/// told.
pub type HandIn =
    Arc<dyn Fn(Envelope, Vec<u8>) -> BoxFuture<'static, Result<TrackingId, String>> + Send + Sync>;

/// A mail with that subject and that line of text, both ASCII, for one recipient. Date, Message-ID and the rest are added
/// where it is taken in.
pub fn compose(from: &Mailbox, to: &Mailbox, subject: &str, text: &str) -> (Envelope, Vec<u8>) {
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
