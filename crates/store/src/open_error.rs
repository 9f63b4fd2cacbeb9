//! Reasons why a store cannot be opened.

use crate::ledger::LedgerError;
use crate::record::UnknownRecord;
use crate::shortage::is_shortage;
use std::io;
use std::path::{Path, PathBuf};

/// Reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("{0} is in use by another mailtrail; stop it first, or give this one another data_dir")]
    Locked(PathBuf),
    /// I/O or permission error.
    #[error("{path} cannot be used: {source}; it must be a directory that this user may write to")]
    Io {
        /// Path of the failed operation.
        path: PathBuf,
        /// Error of the operation.
        source: io::Error,
    },
    /// The directory never held a store.
    #[error(
        "there is no store in {0}; name the relay's configuration with --config, or run this on the relay's host"
    )]
    Missing(PathBuf),
    /// Not even an empty ledger can be created.
    #[error("the ledger in {path} cannot be made: {source}")]
    Ledger {
        /// Directory of the ledger.
        path: PathBuf,
        /// Error of the ledger.
        source: LedgerError,
    },
    /// The path cannot be opened or written now, and is unchanged.
    #[error("{path} cannot be written now: {reason}; free space, or fix the cause")]
    Shortage {
        /// Path of the failed operation.
        path: PathBuf,
        /// Reason of the refusal.
        reason: String,
    },
    /// The journal holds records of a newer version.
    #[error("the journal was written by a newer version of mailtrail: {0}; install that version again")]
    NewerVersion(UnknownRecord),
    /// The journal holds an undecodable record with a good checksum.
    #[error(
        "{path}, byte {offset}: {record}, though its checksum is good; put a copy that `mailtrail store backup` made in the \
         place of data_dir, or move that file away, which loses all that is in it"
    )]
    UnreadableRecord {
        /// File of the segment.
        path: PathBuf,
        /// File offset of the record.
        offset: u64,
        /// Kind and version of the record.
        record: UnknownRecord,
    },
}

impl OpenError {
    /// Returns whether the same store may be opened later: space, a descriptor or permission is missing now.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Shortage { .. } => true,
            Self::Io { source, .. } => is_shortage(source),
            Self::Ledger { source, .. } => source.is_shortage(),
            Self::Locked(_) | Self::Missing(_) | Self::NewerVersion(_) | Self::UnreadableRecord { .. } => {
                false
            }
        }
    }
}

/// Returns a conversion of I/O errors at `path`.
pub fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}
