use crate::suppression::reason::{EvidenceItem, Reason};
use mailtrail_mail::{Mailbox, Timestamp};

/// Addition of an address to a list, or its removal.
#[derive(Clone, Debug, PartialEq)]
pub struct SuppressionChange {
    /// The address.
    pub address: Mailbox,
    /// List, by its upstream's name; `None`: the list that applies to every domain. A removal from that one
    /// is a removal from all.
    pub list: Option<String>,
    /// Time of the change.
    pub at: Timestamp,
    /// Requesting operator; empty for automatic changes.
    pub operator: String,
    /// Kind of the change.
    pub kind: SuppressionChangeKind,
}

/// Kind of a change of the suppression list.
#[derive(Clone, Debug, PartialEq)]
pub enum SuppressionChangeKind {
    /// Adds evidence against the address.
    Add {
        /// Reason of the evidence.
        reason: Reason,
        /// Each occurrence; at least one.
        items: Vec<EvidenceItem>,
    },
    /// Invalidates the evidence up to the time of the change.
    Remove {
        /// Reason to clear; `None`: all reasons.
        reason: Option<Reason>,
        /// Comment of the operator; may be empty.
        comment: String,
    },
}
