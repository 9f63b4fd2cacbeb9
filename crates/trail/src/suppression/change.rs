use crate::suppression::reason::{EvidenceItem, Reason};
use mailtrail_mail::{Mailbox, Timestamp};

/// Somebody put an address on a list, or took it off.
#[derive(Clone, Debug, PartialEq)]
pub struct SuppressionChange {
    /// The address.
    pub address: Mailbox,
    /// The list, by its upstream's name; `None`: the one that holds for every domain. Who is taken off that one is taken
    /// off all.
    pub list: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Who asked; empty where nobody did.
    pub operator: String,
    /// What changes.
    pub kind: SuppressionChangeKind,
}

/// What changes about an address.
#[derive(Clone, Debug, PartialEq)]
pub enum SuppressionChangeKind {
    /// This speaks against it.
    Add {
        /// Why.
        reason: Reason,
        /// Each time; at least one.
        items: Vec<EvidenceItem>,
    },
    /// What happened up to the listing's time is void.
    Remove {
        /// For that reason; `None`: for any.
        reason: Option<Reason>,
        /// Why it is taken off; empty where nothing was said.
        comment: String,
    },
}
