use mailtrail_mail::{Mailbox, MessageId, Timestamp, TrackingId};
use std::time::Duration;

/// Something about a mail that comes in from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum InboundRecord {
    /// It came.
    Received(Box<InboundReceived>),
    /// It went on, or did not.
    Transitioned(InboundTransition),
}

/// A mail from outside, as it came; its message is kept beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundReceived {
    /// What names it; also says when it came.
    pub id: TrackingId,
    /// The upstream whose provider brought it.
    pub upstream: String,
    /// As in [`crate::message::Notice::token`].
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// The envelope's sender; `None` is `<>`.
    pub sender: Option<Mailbox>,
    /// The envelope's recipient.
    pub recipient: Mailbox,
    /// Its Message-ID.
    pub message_id: Option<MessageId>,
    /// The subject, decoded and shortened.
    pub subject: String,
    /// Bytes of the message.
    pub size: u64,
    /// A mail with the same Message-ID and recipient that came so shortly before is the same one.
    pub dedup_window: Duration,
    /// Why it is kept back, if it is.
    pub quarantine_reason: Option<String>,
    /// Files that the provider announced and did not hand over.
    pub missing_files: u32,
}

/// The text about files that are missing from a mail, if any are.
pub fn missing_files_text(count: u32) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 file is missing".to_owned()),
        count => Some(format!("{count} files are missing")),
    }
}

/// What became of a mail from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundTransition {
    /// Which mail.
    pub id: TrackingId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub outcome: InboundOutcome,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundOutcome {
    /// A target took it.
    Delivered {
        /// Which.
        target: String,
        /// What it said.
        reply: String,
    },
    /// A target did not take it, for now.
    Deferred {
        /// Which.
        target: String,
        /// Why.
        reason: String,
        /// When it is tried again.
        next_attempt: Timestamp,
    },
    /// It is a dead letter.
    DeadLettered {
        /// The target that refused it, if one was asked.
        target: String,
        /// Why.
        reason: String,
    },
    /// An operator wants it delivered.
    Released {
        /// Who.
        operator: String,
        /// Why; empty where nothing was said.
        reason: String,
    },
}

/// Where a mail from outside stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InboundState {
    /// It came and is to be delivered.
    Waiting,
    /// A target has it.
    Delivered,
    /// It is not delivered unless an operator wants it.
    DeadLetter,
    /// It is the same as another, and not delivered unless an operator wants it.
    Duplicate,
}

impl InboundState {
    /// The word for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::DeadLetter => "dead",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Everything about a mail from outside but its message.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundMail {
    /// As it came.
    pub received: InboundReceived,
    /// Where it stands.
    pub state: InboundState,
    /// When that began; of one that waits: when it came, or was last released.
    pub state_since: Timestamp,
    /// When it is tried next, if it waits.
    pub next_attempt: Timestamp,
    /// How often a target was asked and did not take it for now.
    pub deferrals: u32,
    /// The target that was asked last; empty: none was.
    pub last_target: String,
    /// What is to be said about where it stands: the target's words, or why it is not delivered.
    pub diagnostic: String,
}
