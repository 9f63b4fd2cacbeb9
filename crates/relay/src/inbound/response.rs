//! Response of a target to a message.

/// What a target makes of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetResponse {
    /// It has it; its words.
    Accepted(String),
    /// It never takes it.
    Rejected(String),
    /// It does not take this one for now.
    Deferred(String),
    /// The same, because the target's user has no right to what this one needs.
    AccessDenied(String),
    /// It takes none for now.
    Unavailable(String),
}
