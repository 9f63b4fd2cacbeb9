//! Actions on queued messages: by operators and by the DSN reporter.

use crate::provider_event::Diagnostic;
use crate::recipient_state::RecipientState;
use mailtrail_mail::{Notify, Timestamp, TrackingId};

/// Reason why a sender gets a DSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnAction {
    /// The message cannot be delivered.
    Failed,
    /// The message was delivered, and the client requested a DSN for that.
    Delivered,
}

impl DsnAction {
    /// Returns the DSN action for a recipient in that state, if its sender gets a DSN (RFC 3461 section 4.1).
    pub fn for_state(state: RecipientState, notify: Option<Notify>) -> Option<Self> {
        let (dsn_action, is_requested) = match state {
            RecipientState::Delivered => (Self::Delivered, notify.is_some_and(|notify| notify.success)),
            state if state.is_failure() => (Self::Failed, notify.is_none_or(|notify| notify.failure)),
            _ => return None,
        };
        is_requested.then_some(dsn_action)
    }
}

/// Operator action on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAction {
    /// The message.
    pub id: TrackingId,
    /// Time of the action.
    pub at: Timestamp,
    /// Requested action.
    pub verb: QueueVerb,
    /// Requesting operator.
    pub operator: String,
    /// Reason of the action.
    pub reason: String,
}

impl QueueAction {
    /// Returns the operator and the reason as a diagnostic.
    pub fn to_diagnostic(&self) -> Diagnostic {
        let Self { operator, reason, .. } = self;
        Diagnostic { name: operator.clone(), text: Some(reason.clone()), ..Diagnostic::default() }
    }
}

/// Action of an operator on all open recipients of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueVerb {
    /// Attempts delivery now.
    Retry,
    /// Holds the message.
    Hold,
    /// Releases a held message.
    Release,
    /// Bounces the message; the sender gets a DSN.
    Bounce,
    /// Deletes the message without a DSN.
    Delete,
}

impl QueueVerb {
    /// All verbs.
    pub const ALL: [Self; 5] = [Self::Retry, Self::Hold, Self::Release, Self::Bounce, Self::Delete];

    /// Returns the keyword for commands, tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Delete => "delete",
        }
    }

    /// Returns the past tense, which trails use.
    pub const fn past_tense(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Bounce => "failed",
            Self::Delete => "cancelled",
        }
    }
}

/// Operator override of an upstream's circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerOverride {
    /// The upstream.
    pub upstream: String,
    /// Time of the override.
    pub at: Timestamp,
    /// Whether the breaker is kept open until an operator closes it.
    pub open: bool,
    /// Requesting operator.
    pub operator: String,
    /// Reason of the override.
    pub reason: String,
}
