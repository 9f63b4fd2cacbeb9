use crate::contact_hint::ContactHint;
use mailtrail_mail::Timestamp;

/// A received contact hint. It belongs to an address, not to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedHint {
    /// Source of the hint.
    pub source: String,
    /// Time of receipt.
    pub received_at: Timestamp,
    /// Key of the request: hints have no ids, and the same request is the same hint.
    pub dedup_key: String,
    /// The hint.
    pub hint: ContactHint,
}
