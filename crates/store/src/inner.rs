//! State of a store that all its handles share.

use crate::body::MessageBody;
use crate::commit_command::{CommitError, CommitOptions};
use crate::compaction::CompactionState;
use crate::data_dir_lock::DataDirLock;
use crate::group_commit::CommitPipeline;
use crate::journal::Disk;
use crate::ledger::{Ledger, LedgerHandle};
use crate::log_cursor::LogCursor;
use crate::message_locks::MessageLocks;
use crate::position::Position;
use crate::read_error::ReadError;
use crate::record::Record;
use crate::segment_cache::SegmentCache;
use crate::stored_body::StoredBody;
use crate::wakeup::Wakeup;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// State of a store.
pub struct StoreInner {
    pub journal_dir: PathBuf,
    pub ledger_dir: PathBuf,
    pub handle: Arc<LedgerHandle>,
    pub commit_pipeline: Option<CommitPipeline>,
    pub segment_cache: SegmentCache,
    pub disk: Arc<dyn Disk>,
    pub compaction: Mutex<CompactionState>,
    pub queue_wakeup: Wakeup,
    pub message_locks: MessageLocks,
    /// Position from which each named sink must read again.
    pub rewind_requests: Mutex<BTreeMap<String, LogCursor>>,
    pub _lock: Arc<DataDirLock>,
}

impl StoreInner {
    /// Returns the writing side, or an error for a read-only store.
    pub fn commit_pipeline(&self) -> Result<&CommitPipeline, CommitError> {
        self.commit_pipeline.as_ref().ok_or(CommitError::ReadOnly)
    }

    /// Commits a record with the given options.
    pub async fn commit(
        &self,
        record: Record,
        body: impl Into<MessageBody>,
        options: CommitOptions,
    ) -> Result<(), CommitError> {
        self.commit_pipeline()?.commit(record, body, options).await
    }

    /// Returns the ledger, or an error while it is closed.
    pub fn ledger(&self) -> ::sled::Result<Arc<Ledger>> {
        self.handle.load()
    }

    /// Returns a watch of the reason why the ledger is closed; `None` for a read-only store.
    pub fn ledger_closed(&self) -> Option<watch::Receiver<Option<String>>> {
        self.commit_pipeline.as_ref().map(CommitPipeline::ledger_closed)
    }

    /// Returns the body of the record at a position; `None` if compaction removed it, or if it is damaged.
    pub fn load_body(&self, position: Position) -> Result<Option<StoredBody>, ReadError> {
        match self.segment_cache.get_or_open(position.segment) {
            Ok(segment) => Ok(StoredBody::load(segment, position.offset)?),
            // Compaction removed the segment: no record in it was needed any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Excludes maintenance while the guard is held.
    pub fn lock_maintenance(&self) -> MutexGuard<'_, CompactionState> {
        self.compaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_rewind_requests(&self) -> MutexGuard<'_, BTreeMap<String, LogCursor>> {
        self.rewind_requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
