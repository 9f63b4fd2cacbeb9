/// Mail in a lane waits for none in a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Somebody waits for it: invoices, passwords, answers.
    #[default]
    Transactional,
    /// Newsletters and the like.
    Bulk,
}

impl Lane {
    /// The word for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Bulk => "bulk",
        }
    }
}
