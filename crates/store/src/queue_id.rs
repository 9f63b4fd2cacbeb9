//! Names and sizes of the queues.

use mailtrail_mail::{Lane, Timestamp};
use mailtrail_trail::QueueKey;

/// Queued messages of one lane that wait for the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId {
    /// Lane of all its messages.
    pub lane: Lane,
    /// Upstream or condition that the messages wait for.
    pub key: QueueKey,
}

/// Queued messages with the same queue key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// Number of messages, from 1.
    pub messages: u64,
    /// Acceptance time of the oldest message.
    pub oldest: Timestamp,
}
