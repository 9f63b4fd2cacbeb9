use crate::contact_hint::ContactHint;
use mailtrail_mail::Timestamp;

/// A hint about a contact, as it came. It belongs to an address and to no send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedHint {
    /// The source that gave it.
    pub source: String,
    /// When it came.
    pub received_at: Timestamp,
    /// What stands for the request that brought it: hints have no ids, and the same request is the same hint.
    pub dedup_key: String,
    /// What it says.
    pub hint: ContactHint,
}
