//! The error of maintenance.

use crate::commit_command::CommitError;
use crate::journal::CompactionError;
use crate::open_error::OpenError;
use crate::read_error::ReadError;
use crate::replay::ReplayError;
use std::io;

/// Maintenance failed; it is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// Error of a lookup.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Error of a rewrite.
    #[error(transparent)]
    Rewrite(#[from] CompactionError),
    /// Error of the replay into a new ledger.
    #[error("the ledger cannot be rebuilt: {0}")]
    Rebuild(#[from] ReplayError),
    /// Error of opening a new ledger.
    #[error("the ledger cannot be rebuilt: {0}")]
    Open(#[from] OpenError),
    /// The store's threads have ended.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for MaintenanceError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<io::Error> for MaintenanceError {
    fn from(error: io::Error) -> Self {
        Self::Read(error.into())
    }
}
