//! Everything that is known about one message.

use crate::message::{Message, QueueKey};
use crate::recipient::Recipient;
use crate::trail_event::TrailEvent;
use mailtrail_mail::Timestamp;

/// All data about one message.
#[derive(Clone, Debug)]
pub struct Trail {
    /// The message.
    pub message: Message,
    /// Recipients in the order of the envelope.
    pub recipients: Vec<Recipient>,
    /// Events, oldest first.
    pub events: Vec<TrailEvent>,
    /// Attempts made.
    pub attempts: u32,
    /// Time of the next attempt; for a held message, the time before it was held.
    pub next_attempt: Option<Timestamp>,
    /// Queue of the message while it is open.
    pub queue_key: Option<QueueKey>,
    /// Whether an attempt is in progress.
    pub is_sending: bool,
}
