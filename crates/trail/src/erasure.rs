use mailtrail_mail::Timestamp;

/// Erasure of an address by an operator.
#[derive(Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Time of the erasure.
    pub at: Timestamp,
    /// The operator.
    pub operator: String,
    /// Reason of the erasure.
    pub reason: String,
    /// Pseudonym that replaces the address.
    pub pseudonym: String,
    /// Salt by which the suppression list recognises erased addresses; the first erasure of a store
    /// determines it for all later ones.
    pub salt: [u8; 16],
}

impl std::fmt::Debug for Erasure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, operator, reason, pseudonym, salt: _ } = self;
        write!(f, "Erased {{ {at}, {operator:?}, {reason:?}, {pseudonym} }}")
    }
}
