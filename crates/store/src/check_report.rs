//! Result of a consistency check.

use mailtrail_mail::TrackingId;

/// Result of a consistency check of the ledger's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Number of queued messages.
    pub queued: u64,
    /// Queued messages that were accepted before the given limit.
    pub overdue: Vec<TrackingId>,
    /// Attempts that began before the given limit and have not ended.
    pub stuck: Vec<TrackingId>,
    /// Messages with contradictory rows.
    pub inconsistencies: Vec<Inconsistency>,
}

/// A message with contradictory rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconsistency {
    /// Open message without a queue row.
    MissingFromQueue(TrackingId),
    /// Queue row that the message's row does not refer to.
    UnexpectedInQueue(TrackingId),
    /// Message row that cannot be decoded.
    Unreadable(TrackingId),
}

impl Inconsistency {
    /// Returns the message's tracking id.
    pub const fn id(&self) -> TrackingId {
        match self {
            Self::MissingFromQueue(id) | Self::UnexpectedInQueue(id) | Self::Unreadable(id) => *id,
        }
    }
}
