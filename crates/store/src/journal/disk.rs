//! The file operations whose order decides what survives a power cut. Reading needs no seam.

use crate::disk_space::FreeSpace;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A disk that the journal is written to.
pub trait Disk: Debug + Send + Sync {
    /// Makes an empty file, in the place of one that is there.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is being written once more, to sync it: each opening hears of a failed write for itself.
    fn reopen(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in the place of one that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Returns when the names in a directory are on stable storage.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// What may still be written.
    fn free_space(&self, directory: &Path) -> io::Result<FreeSpace>;
}

/// A file that is being written.
pub trait DiskFile: Debug + Write + Seek + Send {
    /// Returns when its bytes are on stable storage.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts it off.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug, Default)]
pub struct LocalDisk {
    /// The directory that was synced last, held open: there may be no descriptor left when it is to be synced again.
    last_synced_dir: Mutex<Option<(PathBuf, File)>>,
}

impl Disk for LocalDisk {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn reopen(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
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
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}
