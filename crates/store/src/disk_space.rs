//! Free-space limits. New messages are rejected before the disk is full: the rest is reserved for the
//! outcomes of queued messages, and for the ledger, which does not recover from a failed write.

use rustix::fs::StatVfs;
use std::io;

/// Free space of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that an unprivileged process may use.
    pub bytes: u64,
    /// Free inodes, if the file system counts them.
    pub inodes: Option<u64>,
}

impl FreeSpace {
    /// Reads the free space from a disk's statistics.
    pub fn from_statvfs(disk: &StatVfs) -> Self {
        let inodes = (disk.f_files > 0).then_some(disk.f_favail);
        Self { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), inodes }
    }

    /// Returns an error if new messages may not take another `bytes`.
    pub fn check_available(self, bytes: u64) -> io::Result<()> {
        let text = if self.bytes < bytes.saturating_add(RESERVED_BYTES) {
            format!("less than {} MiB would be left free", RESERVED_BYTES >> 20)
        } else if self.inodes.is_some_and(|inodes| inodes < RESERVED_INODES) {
            format!("less than {RESERVED_INODES} inodes are left free")
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// Returns whether an operator should free space: less than `bytes` or fewer than [`LOW_INODES`] are
    /// left.
    pub fn is_low(self, bytes: u64) -> bool {
        self.bytes < bytes || self.inodes.is_some_and(|inodes| inodes < LOW_INODES)
    }
}

/// Bytes of the disk that new messages leave free.
pub const RESERVED_BYTES: u64 = 16 << 20;
/// Inodes that new messages leave free: for a segment, the ledger's files and their replacements.
pub const RESERVED_INODES: u64 = 100;
/// Free bytes below which an operator should free space. Default; configurable.
pub const LOW_BYTES: u64 = 1 << 30;
/// Free inodes below which an operator should free space.
pub const LOW_INODES: u64 = 10_000;
