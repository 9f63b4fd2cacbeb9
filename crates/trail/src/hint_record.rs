use crate::contact_hint::Hint;
use mailtrail_mail::Timestamp;

/// A hint about a contact, as it came. It belongs to an address and to no send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hinted {
    /// The source that gave it.
    pub source: String,
    /// When it came.
    pub received: Timestamp,
    /// What stands for the request that brought it: hints have no ids, and the same request is the same hint.
    pub identity: String,
    /// What it says.
    pub hint: Hint,
}
