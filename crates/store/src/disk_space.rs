//! New mail stops before the disk is full: what is left is for the outcomes of the mail that is here, and for the
//! ledger, which cannot go on once it could not write.

use rustix::fs::StatVfs;
use std::io;

/// What may still be written to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes.
    pub bytes: u64,
    /// Files, where the file system counts them.
    pub inodes: Option<u64>,
}

impl FreeSpace {
    /// Of a disk.
    pub fn from_statvfs(disk: &StatVfs) -> Self {
        let inodes = (disk.f_files > 0).then_some(disk.f_favail);
        Self { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), inodes }
    }

    /// Whether new mail may take `bytes` more of it.
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

    /// Whether somebody should make room: less than `bytes` are left, or less than [`FEW_INODES`].
    pub fn is_low(self, bytes: u64) -> bool {
        self.bytes < bytes || self.inodes.is_some_and(|inodes| inodes < LOW_INODES)
    }
}

/// Bytes of the disk that new mail leaves free.
pub const RESERVED_BYTES: u64 = 16 << 20;
/// Inodes that it leaves free: for a segment, the projection's files and those that replace them.
pub const RESERVED_INODES: u64 = 100;
/// Bytes of the disk below which somebody should make room, unless told otherwise.
pub const LOW_BYTES: u64 = 1 << 30;
/// Inodes below which somebody should.
pub const LOW_INODES: u64 = 10_000;
