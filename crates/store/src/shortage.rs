//! What a disk or the system refuses for now. It says nothing about the files: they are kept, and tried again.

use crate::disk_space::FreeSpace;
use mailtrail_mail::descriptors;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Whether the call may succeed later with the same files: no room (ENOSPC, EDQUOT), no descriptor (EMFILE, ENFILE), no
/// permission (EACCES, EPERM), a file system that became read-only (EROFS), no memory.
pub fn is_shortage(error: &io::Error) -> bool {
    use ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kinds = [StorageFull, QuotaExceeded, ReadOnlyFilesystem, PermissionDenied, OutOfMemory];
    // sled keeps the kind of an error that it tells again, and of the number only the text.
    let told_again = || ["code: 23,", "code: 24,"].iter().any(|code| error.to_string().contains(code));
    kinds.contains(&error.kind()) || descriptors::is_shortage(error) || told_again()
}

/// The same of sled's errors. A lock that another handle in this process still has is let go of soon.
pub fn is_sled_shortage(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if is_shortage(error) || error.to_string().contains("acquire lock"))
}

/// Whether a directory can be written to, and why not. `room` bytes must be left on its disk.
pub fn check_writable(directory: &Path, room: u64) -> io::Result<()> {
    check_free_space(directory, room)?;
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(&[1; PROBE_BYTES])?;
    file.sync_data()
}

/// An error where less than `room` bytes are left on the disk of `directory`.
pub fn check_free_space(directory: &Path, room: u64) -> io::Result<()> {
    let free = FreeSpace::from_statvfs(&rustix::fs::statvfs(directory)?);
    if free.bytes < room {
        let text = format!("less than {} MiB are left free on its disk", room >> 20);
        return Err(io::Error::new(ErrorKind::StorageFull, text));
    }
    Ok(())
}

/// Bytes that are written to find out whether some can be.
const PROBE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn classifies_transient_errors_as_shortage() {
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::MFILE,
            Errno::NFILE,
            Errno::ACCESS,
            Errno::PERM,
            Errno::ROFS,
            Errno::NOMEM,
        ] {
            let error = sled::Error::Io(io::Error::from(errno));
            assert!(is_sled_shortage(&error) && is_sled_shortage(&error.clone()), "{error}");
        }
        for errno in [Errno::IO, Errno::INVAL, Errno::NOENT, Errno::ISDIR] {
            assert!(!is_shortage(&io::Error::from(errno)), "{errno}");
        }
        assert!(!is_sled_shortage(&sled::Error::ReportableBug("code: 24,".into())));
    }
}
