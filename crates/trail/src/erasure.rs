use mailtrail_mail::Timestamp;

/// An operator had an address erased.
#[derive(Clone, PartialEq, Eq)]
pub struct Erasure {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub operator: String,
    /// Why.
    pub reason: String,
    /// What stands in its place now.
    pub pseudonym: String,
    /// By which the suppression list knows erased addresses again; the first one of a store is that of all to come.
    pub salt: [u8; 16],
}

impl std::fmt::Debug for Erasure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, operator, reason, pseudonym, salt: _ } = self;
        write!(f, "Erased {{ {at}, {operator:?}, {reason:?}, {pseudonym} }}")
    }
}
