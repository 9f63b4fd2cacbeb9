//! The mail that tells of alarms.

use crate::alarms::notification::Bulletin;
use crate::alarms::notifier::Letters;
use crate::monitoring::Pulse;
use bytes::Bytes;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::raw::Raw;
use mailtrail_mail::{Clock, Mailbox, MessageId, Timestamp, TrackingId, TrackingIdGenerator};
use mailtrail_store::{CommitError, Store};
use mailtrail_trail::provider::OWN_ID_HEADER;
use mailtrail_trail::{AcceptedMessage, Message, routing};

/// What a mail is handed in with.
pub(super) struct Post<'a> {
    pub store: &'a Store,
    pub clock: Clock,
    pub mint: &'a TrackingIdGenerator,
    pub hostname: &'a str,
    pub pulse: &'a Pulse,
    pub letters: &'a Letters,
}

impl Post<'_> {
    /// Puts it into the queue; it goes to `first` unless that one is away.
    pub async fn hand_in(&self, bulletin: &Bulletin, first: Option<String>) -> Result<(), CommitError> {
        let (now, Letters { to, from, .. }) = (self.clock.now(), self.letters);
        let id = self.mint.generate(now, fastrand::u128(..));
        let subject = bulletin.subject(self.hostname);
        let message = self.compose(bulletin, &subject, id, now);
        let send = Message {
            sender: Some(from.clone()),
            message_id: MessageId::parse(&self.message_id(id)),
            size: message.len() as u64,
            smtputf8: !from.is_ascii() || !to.iter().all(Mailbox::is_ascii),
            route: first.map(|upstream| routing::first(&upstream)),
            subject,
            ..Message::new(id, CLIENT)
        };
        // Whoever has no other mail has no events either, and hears of that once.
        self.pulse.overlook(id);
        self.store
            .put_message(AcceptedMessage { message: send, recipients: to.clone() }, Bytes::from(message))
            .await
    }

    fn compose(&self, bulletin: &Bulletin, subject: &str, id: TrackingId, now: Timestamp) -> Vec<u8> {
        let Letters { to, from, .. } = self.letters;
        let to: Vec<_> = to.iter().map(|one| Address::new_address(None::<&str>, one.as_str())).collect();
        MessageBuilder::new()
            .header(OWN_ID_HEADER, Raw::new(id.to_string()))
            .from(from.as_str())
            .to(Address::new_list(to))
            .subject(subject)
            .message_id(self.message_id(id))
            .header("Date", Raw::new(now.to_rfc5322()))
            .header("Auto-Submitted", Raw::new("auto-generated"))
            .text_body(bulletin.text(self.hostname).replace('\n', "\r\n"))
            .write_to_vec()
            .expect("memory takes what is written")
    }

    fn message_id(&self, id: TrackingId) -> String {
        format!("{id}@{}", self.hostname)
    }
}

/// The client's label.
const CLIENT: &str = "mailtrail";
