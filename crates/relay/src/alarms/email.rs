//! Mail with an alarm notification.

use crate::alarms::notification::Notification;
use crate::alarms::settings::EmailSettings;
use crate::monitoring::UpstreamActivity;
use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::raw::Raw;
use mailtrail_mail::{Clock, Mailbox, MessageId, Timestamp, TrackingId, TrackingIdGenerator};
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
        let message = self.compose_message(notification, &subject, id, now);
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

    fn compose_message(
        &self,
        notification: &Notification,
        subject: &str,
        id: TrackingId,
        now: Timestamp,
    ) -> Vec<u8> {
        let EmailSettings { recipients, sender, .. } = self.settings;
        let to: Vec<_> =
            recipients.iter().map(|one| Address::new_address(None::<&str>, one.as_str())).collect();
        MessageBuilder::new()
            .header(TRACKING_ID_HEADER, Raw::new(id.to_string()))
            .from(sender.as_str())
            .to(Address::new_list(to))
            .subject(subject)
            .message_id(self.message_id(id))
            .header("Date", Raw::new(now.to_rfc5322()))
            .header("Auto-Submitted", Raw::new("auto-generated"))
            .text_body(notification.to_text(self.hostname).replace('\n', "\r\n"))
            .write_to_vec()
            .expect("memory takes what is written")
    }

    fn message_id(&self, id: TrackingId) -> String {
        format!("{id}@{}", self.hostname)
    }
}

/// Label of the client in trails and logs.
const INTERNAL_CLIENT: &str = "mailtrail";
