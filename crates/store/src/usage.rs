//! How much there is: what waits, and what the files take.

use crate::disk_space::FreeSpace;
use crate::{ReadError, Store};
use mailtrail_mail::Timestamp;
use mailtrail_trail::QueueKey;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Mails that wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// How many.
    pub messages: u64,
    /// When the oldest was accepted.
    pub oldest: Timestamp,
}

/// What the files take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// The journal's.
    pub journal_bytes: u64,
    /// The ledger's.
    pub ledger_bytes: u64,
    /// What the disk has left.
    pub free_bytes: u64,
}

impl Store {
    /// What waits, by what it waits for. It reads each place in the queue: about a second a million mails.
    pub fn queue_depths(&self) -> Result<Vec<(QueueKey, QueueDepth)>, ReadError> {
        Ok(self.ledger()?.queue_depths()?)
    }

    /// What may still be written to the store's disk.
    pub fn free_space(&self) -> io::Result<FreeSpace> {
        self.0.disk.free_space(&self.0.journal_dir)
    }

    /// What the files take. It looks at each file's entry.
    pub fn disk_usage(&self) -> io::Result<DiskUsage> {
        Ok(DiskUsage {
            journal_bytes: directory_bytes(&self.0.journal_dir)?,
            ledger_bytes: directory_bytes(self.ledger()?.directory())?,
            free_bytes: self.free_space()?.bytes,
        })
    }
}

/// The sum of a directory's files; those that go meanwhile count nothing.
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
