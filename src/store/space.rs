//! New mail stops before the disk is full: what is left is for the outcomes of the mail that is here, and for the
//! ledger, which cannot go on once it could not write.

use rustix::fs::StatVfs;
use std::io;

/// Whether new mail may take `bytes` more of a disk that has `free`.
pub fn enough(free: u64, bytes: u64) -> io::Result<()> {
    if free >= bytes.saturating_add(LEFT_FREE) {
        return Ok(());
    }
    let text = format!("less than {} MiB would be left free", LEFT_FREE >> 20);
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// Bytes of a disk that may still be written.
pub fn free(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

/// Bytes of the disk that new mail leaves free.
pub const LEFT_FREE: u64 = 16 << 20;
