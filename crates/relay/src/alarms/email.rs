//! Mail with an alarm notification.

use crate::alarms::notification::Notification;
use crate::alarms::settings::EmailSettings;
use crate::internal_mail::compose;
use crate::monitoring::UpstreamActivity;
use bytes::Bytes;
use mailtrail_mail::{Clock, Mailbox, MessageId, TrackingId, TrackingIdGenerator};
use mailtrail_store::{CommitError, Store};
use mailtrail_trail::provider::TRACKING_ID_HEADER;
use mailtrail_trail::{AcceptedMessage, Message, routing};

/// Composer and submitter of alarm mail.
pub(super) struct EmailSender<'a> {
    pub store: &'a Store,
    pub clock: Clock,
    pub id_generator: &'a TrackingIdGenerator,
    pub hostname: &'a str,
    pub upstream_activity: &'a UpstreamActivity,
    pub settings: &'a EmailSettings,
}

impl EmailSender<'_> {
    /// Puts the notification into the queue, with a route that prefers upstream `first`.
    pub async fn submit(
        &self,
        notification: &Notification,
        first: Option<String>,
    ) -> Result<(), CommitError> {
        let (now, EmailSettings { recipients, sender, .. }) = (self.clock.now(), self.settings);
        let id = self.id_generator.generate(now, fastrand::u128(..));
        let subject = notification.subject(self.hostname);
        let message = compose(
            sender,
            recipients,
            &subject,
            &notification.to_text(self.hostname),
            &[
                (TRACKING_ID_HEADER, id.to_string()),
                ("Message-ID", format!("<{}>", self.message_id(id))),
                ("Date", now.to_rfc5322()),
            ],
        );
        let stored = Message {
            sender: Some(sender.clone()),
            message_id: MessageId::parse(&self.message_id(id)),
            size: message.len() as u64,
            smtputf8: !sender.is_ascii() || !recipients.iter().all(Mailbox::is_ascii),
            route: first.map(|upstream| routing::prefer_upstream(&upstream)),
            subject,
            ..Message::new(id, INTERNAL_CLIENT)
        };
        // If a relay sends no other mail, a missing event for this one must not raise an alarm about itself.
        self.upstream_activity.exclude_message(id);
        self.store
            .put_message(
                AcceptedMessage { message: stored, recipients: recipients.clone() },
                Bytes::from(message),
            )
            .await
    }

    fn message_id(&self, id: TrackingId) -> String {
        format!("{id}@{}", self.hostname)
    }
}

/// Label of the client in trails and logs.
const INTERNAL_CLIENT: &str = "mailtrail";
