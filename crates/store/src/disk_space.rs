//! New mail stops before the disk is full: what is left is for the outcomes of the mail that is here, and for the
//! ledger, which cannot go on once it could not write.

use rustix::fs::StatVfs;
use std::io;

/// What may still be written to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Files, where the file system counts them.
    pub inodes: Option<u64>,
}

impl Free {
    /// Of a disk.
    pub fn of(disk: &StatVfs) -> Self {
        let inodes = (disk.f_files > 0).then_some(disk.f_favail);
        Self { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), inodes }
    }

    /// Whether new mail may take `bytes` more of it.
    pub fn admit(self, bytes: u64) -> io::Result<()> {
        let text = if self.bytes < bytes.saturating_add(LEFT_FREE) {
            format!("less than {} MiB would be left free", LEFT_FREE >> 20)
        } else if self.inodes.is_some_and(|inodes| inodes < LEFT_INODES) {
            format!("less than {LEFT_INODES} inodes are left free")
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// Whether somebody should make room: less than `bytes` are left, or less than [`FEW_INODES`].
    pub fn is_low(self, bytes: u64) -> bool {
        self.bytes < bytes || self.inodes.is_some_and(|inodes| inodes < FEW_INODES)
    }
}

/// Bytes of the disk that new mail leaves free.
pub const LEFT_FREE: u64 = 16 << 20;
/// Inodes that it leaves free: for a segment, the projection's files and those that replace them.
pub const LEFT_INODES: u64 = 100;
/// Bytes of the disk below which somebody should make room, unless told otherwise.
pub const LOW: u64 = 1 << 30;
/// Inodes below which somebody should.
pub const FEW_INODES: u64 = 10_000;
