//! The error of lookups.

use crate::shortage;

/// Failed lookup: a disk error or a damaged ledger.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Error of the ledger.
    #[error("the ledger cannot be read; `mailtrail store rebuild` makes it anew from the journal")]
    Ledger(#[source] ::sled::Error),
    /// The ledger is closed, with the reason; it reopens automatically.
    #[error("the ledger cannot be read now: {0}")]
    LedgerClosed(String),
    /// Error of the journal.
    #[error("the journal cannot be read")]
    Journal(#[from] std::io::Error),
}

impl ReadError {
    /// Returns whether the read may succeed later: no file descriptor is free, or the ledger is closed.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::LedgerClosed(_) => true,
            Self::Journal(error) => shortage::is_shortage(error),
            Self::Ledger(error) => shortage::is_sled_shortage(error),
        }
    }
}

impl From<::sled::Error> for ReadError {
    fn from(error: ::sled::Error) -> Self {
        match error {
            // Only a closed ledger returns this error.
            ::sled::Error::Unsupported(reason) => Self::LedgerClosed(reason),
            error => Self::Ledger(error),
        }
    }
}
