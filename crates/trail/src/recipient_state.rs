//! States of a recipient: the result of the relay, and the state shown to users.

/// Status of a recipient after the relay's own attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptStatus {
    /// Waiting for the next attempt.
    Queued,
    /// Accepted by the upstream.
    Relayed,
    /// Permanently refused by the upstream.
    Bounced,
    /// Given up by the relay.
    Failed,
    /// Given up by the relay because of the message's age.
    Expired,
    /// Sent without a reply: settled by an event, or tried again when due.
    Unknown,
    /// Deleted by an operator.
    Cancelled,
    /// Not sent: the address is on the suppression list.
    Suppressed,
}

impl AttemptStatus {
    /// All statuses.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Relayed,
        Self::Bounced,
        Self::Failed,
        Self::Expired,
        Self::Unknown,
        Self::Cancelled,
    ];

    /// Returns the keyword for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Relayed => "relayed",
            Self::Bounced => "bounced",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Cancelled => "cancelled",
            Self::Suppressed => "suppressed",
        }
    }
}

/// Overall state of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecipientState {
    /// Waiting for the next attempt.
    Queued,
    /// An attempt is in progress.
    Sending,
    /// Accepted by the provider; the further outcome is not known yet.
    Relayed,
    /// Accepted by the recipient's server.
    Delivered,
    /// Permanently refused.
    Bounced,
    /// Given up.
    Failed,
    /// Given up because of the message's age.
    Expired,
    /// Not attempted by the provider or the relay: the address is on a suppression list.
    Suppressed,
    /// Sent without a reply.
    Unknown,
    /// Held by an operator.
    Held,
    /// Deleted by an operator.
    Cancelled,
}

impl RecipientState {
    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Queued,
        Self::Sending,
        Self::Relayed,
        Self::Delivered,
        Self::Bounced,
        Self::Failed,
        Self::Expired,
        Self::Suppressed,
        Self::Unknown,
        Self::Held,
        Self::Cancelled,
    ];

    /// Returns whether the message is not delivered, as far as is known.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Bounced | Self::Failed | Self::Expired | Self::Suppressed)
    }

    /// Returns the keyword for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Unknown => "unknown",
            Self::Held => "held",
            Self::Cancelled => "cancelled",
        }
    }
}
