//! Response of a target to a message.

/// Response of a target to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetResponse {
    /// Accepted, with the target's text.
    Accepted(String),
    /// It never takes it.
    Rejected(String),
    /// It does not take this one for now.
    Deferred(String),
    /// Deferred, because the target's user has no access right that this message needs.
    AccessDenied(String),
    /// It takes none for now.
    Unavailable(String),
}
