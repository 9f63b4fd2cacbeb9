/// Mail in a lane waits for none in a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Messages that a recipient is waiting for: invoices, passwords, replies.
    #[default]
    Transactional,
    /// Newsletters and the like.
    Bulk,
}

impl Lane {
    /// Returns the word used in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Bulk => "bulk",
        }
    }
}
