//! Lock of a data directory. A store belongs to one process.

use crate::shortage::is_shortage;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Lock of a data directory against other processes; released when the process ends, in whatever way.
#[derive(Debug)]
pub struct DataDirLock(#[expect(dead_code, reason = "held, not used")] File);

impl DataDirLock {
    /// Takes the lock; `None` if another process holds it.
    pub fn try_acquire(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join("lock");
        let file = match File::options().write(true).create(true).truncate(false).open(&path) {
            // An existing file can be locked even on a file system that is read-only.
            Err(error) if is_shortage(&error) => File::open(&path).map_err(|_| error)?,
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
