use mailtrail_mail::{Mailbox, MessageId, Timestamp, TrackingId};
use std::time::Duration;

/// Record about an inbound message.
#[derive(Clone, Debug, PartialEq)]
pub enum InboundRecord {
    /// The message was received.
    Received(Box<InboundReceived>),
    /// The message changed its state, or a delivery was deferred.
    Transitioned(InboundTransition),
}

/// A received inbound message; its body is stored separately.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundReceived {
    /// Id of the message; also holds its time of receipt.
    pub id: TrackingId,
    /// Upstream of the provider that sent it.
    pub upstream: String,
    /// One-time token, as in [`crate::message::ReceivedEvent::token`].
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// Envelope sender; `None` is `<>`.
    pub sender: Option<Mailbox>,
    /// Envelope recipient.
    pub recipient: Mailbox,
    /// Message-ID.
    pub message_id: Option<MessageId>,
    /// Subject, decoded and shortened.
    pub subject: String,
    /// Size of the message in bytes.
    pub size: u64,
    /// Window in which a message with the same Message-ID and recipient is a duplicate.
    pub dedup_window: Duration,
    /// Reason why the message is quarantined, if it is.
    pub quarantine_reason: Option<String>,
    /// Number of files that the provider announced but did not send.
    pub missing_files: u32,
}

/// Returns the text about missing files, if there are any.
pub fn missing_files_text(count: u32) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 file is missing".to_owned()),
        count => Some(format!("{count} files are missing")),
    }
}

/// Outcome of an inbound message's processing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundTransition {
    /// The message.
    pub id: TrackingId,
    /// Time of the outcome.
    pub at: Timestamp,
    /// The outcome.
    pub outcome: InboundOutcome,
}

/// Outcome of a delivery or an operator's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundOutcome {
    /// Accepted by a target.
    Delivered {
        /// The target.
        target: String,
        /// Reply of the target.
        reply: String,
    },
    /// Temporarily refused by a target.
    Deferred {
        /// The target.
        target: String,
        /// Reason of the refusal.
        reason: String,
        /// Time of the next attempt.
        next_attempt: Timestamp,
    },
    /// Moved to the dead letters.
    DeadLettered {
        /// Target that refused it; empty if none was contacted.
        target: String,
        /// Reason of the refusal.
        reason: String,
    },
    /// Released for delivery by an operator.
    Released {
        /// The operator.
        operator: String,
        /// Reason of the release; may be empty.
        reason: String,
    },
}

/// State of an inbound message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InboundState {
    /// Received and waiting for delivery.
    Waiting,
    /// Accepted by a target.
    Delivered,
    /// Not delivered unless an operator releases it.
    DeadLetter,
    /// Duplicate of another message; not delivered unless an operator releases it.
    Duplicate,
}

impl InboundState {
    /// Returns the keyword for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::DeadLetter => "dead",
            Self::Duplicate => "duplicate",
        }
    }
}

/// All data about an inbound message, except its body.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundSummary {
    /// The message as received.
    pub received: InboundReceived,
    /// Current state.
    pub state: InboundState,
    /// Start of the state; for a waiting message, the time of receipt or of the last release.
    pub state_since: Timestamp,
    /// Time of the next attempt of a waiting message.
    pub next_attempt: Timestamp,
    /// Number of temporary refusals by targets.
    pub deferrals: u32,
    /// Target that was contacted last; empty if none was.
    pub last_target: String,
    /// Explanation of the state: the target's reply, or the reason why the message is not delivered.
    pub diagnostic: String,
}
