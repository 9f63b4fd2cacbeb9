use crate::shortage::is_shortage;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// The proof that no other process has this data directory; released with the process, however it ends.
#[derive(Debug)]
pub struct DataDirLock(#[expect(dead_code, reason = "held, not used")] File);

impl DataDirLock {
    /// Takes the lock, or `None` when another process has it.
    pub fn try_acquire(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join("lock");
        let file = match File::options().write(true).create(true).truncate(false).open(&path) {
            // A file that is there can be locked on a file system that cannot be written to, too.
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
