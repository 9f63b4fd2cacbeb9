//! File operations; their order determines the data that survives a power cut. Reads need no abstraction.

use crate::disk_space::FreeSpace;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A disk that the journal is written to.
pub trait Disk: Debug + Send + Sync {
    /// Creates an empty file and replaces an existing one.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file again that is being written, in order to sync it. Each file description reports a failed
    /// write on its own.
    fn reopen_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file and replaces an existing one.
    fn rename_file(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file from its directory.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Returns when the entries of a directory are on stable storage.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Returns the free space of the disk.
    fn free_space(&self, directory: &Path) -> io::Result<FreeSpace>;
}

/// A file that is being written.
pub trait DiskFile: Debug + Write + Seek + Send {
    /// Returns when the file's bytes are on stable storage.
    fn fsync(&mut self) -> io::Result<()>;
    /// Truncates the file to `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The local file system.
#[derive(Debug, Default)]
pub struct LocalDisk {
    /// The directory that was synced last, held open: at the next sync there may be no free descriptor.
    last_synced_dir: Mutex<Option<(PathBuf, File)>>,
}

impl Disk for LocalDisk {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn reopen_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(path)?))
    }

    fn rename_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut synced = self.last_synced_dir.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *synced {
            Some((known, directory)) if known == path => directory.sync_all(),
            other => other.insert((path.to_owned(), File::open(path)?)).1.sync_all(),
        }
    }

    fn free_space(&self, directory: &Path) -> io::Result<FreeSpace> {
        Ok(FreeSpace::from_statvfs(&rustix::fs::statvfs(directory)?))
    }
}

impl DiskFile for File {
    fn fsync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}
