//! How much there is: what waits, and what the files take.

use crate::disk_space::Free;
use crate::{ReadError, Store};
use mailtrail_mail::Timestamp;
use mailtrail_trail::Waits;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Mails that wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub sends: u64,
    /// When the oldest was accepted.
    pub oldest: Timestamp,
}

/// What the files take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The journal's.
    pub journal: u64,
    /// The ledger's.
    pub ledger: u64,
    /// What the disk has left.
    pub free: u64,
}

impl Store {
    /// What waits, by what it waits for. It reads each place in the queue: about a second a million mails.
    pub fn waiting(&self) -> Result<Vec<(Waits, Waiting)>, ReadError> {
        Ok(self.projection()?.waiting()?)
    }

    /// What may still be written to the store's disk.
    pub fn free(&self) -> io::Result<Free> {
        self.0.disk.free(&self.0.journal)
    }

    /// What the files take. It looks at each file's entry.
    pub fn size(&self) -> io::Result<Size> {
        Ok(Size {
            journal: files(&self.0.journal)?,
            ledger: files(self.projection()?.directory())?,
            free: self.free()?.bytes,
        })
    }
}

/// The sum of a directory's files; those that go meanwhile count nothing.
fn files(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => files(&entry.path())?,
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}
