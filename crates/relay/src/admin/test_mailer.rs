//! Submission of test messages.

use crate::internal_mail::SubmitFn;
use mailtrail_mail::Mailbox;
use std::sync::Arc;

/// Dependencies of test mail.
#[derive(Clone)]
pub struct TestMailer {
    /// Submits the message.
    pub submit: SubmitFn,
    /// Default sender.
    pub default_sender: Option<Mailbox>,
    /// Upstreams without returning events.
    pub without_events: Arc<[String]>,
}
