//! Sizes: queue depths, file sizes and free space.

use crate::disk_space::FreeSpace;
use crate::{ReadError, Store};
use mailtrail_mail::Timestamp;
use mailtrail_trail::QueueKey;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Queued messages with the same queue key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// Number of messages.
    pub messages: u64,
    /// Acceptance time of the oldest message.
    pub oldest: Timestamp,
}

/// Size of the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// Size of the journal, in bytes.
    pub journal_bytes: u64,
    /// Size of the ledger, in bytes.
    pub ledger_bytes: u64,
    /// Free space of the disk.
    pub free_bytes: u64,
}

impl Store {
    /// Returns the queue depths by queue key. Reads every row of the queue: about 1 s per million messages.
    pub fn queue_depths(&self) -> Result<Vec<(QueueKey, QueueDepth)>, ReadError> {
        Ok(self.ledger()?.queue_depths()?)
    }

    /// Returns the free space of the store's disk.
    pub fn free_space(&self) -> io::Result<FreeSpace> {
        self.0.disk.free_space(&self.0.journal_dir)
    }

    /// Returns the sizes of the store's files. Reads the metadata of each file.
    pub fn disk_usage(&self) -> io::Result<DiskUsage> {
        Ok(DiskUsage {
            journal_bytes: directory_bytes(&self.0.journal_dir)?,
            ledger_bytes: directory_bytes(self.ledger()?.directory())?,
            free_bytes: self.free_space()?.bytes,
        })
    }
}

/// Sums the sizes of a directory's files; files that disappear in the meantime count 0.
fn directory_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => directory_bytes(&entry.path())?,
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}
