//! Temporary refusals by a disk or the operating system. They are no evidence against the files, which are
//! kept and tried again.

use crate::disk_space::FreeSpace;
use mailtrail_mail::descriptors;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Returns whether the call may succeed later with the same files: no space (ENOSPC, EDQUOT), no descriptor
/// (EMFILE, ENFILE), no permission (EACCES, EPERM), a file system that became read-only (EROFS), no memory.
pub fn is_shortage(error: &io::Error) -> bool {
    use ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kinds = [StorageFull, QuotaExceeded, ReadOnlyFilesystem, PermissionDenied, OutOfMemory];
    // sled keeps the kind of an error that it returns again, but of its number only the text.
    let told_again = || ["code: 23,", "code: 24,"].iter().any(|code| error.to_string().contains(code));
    kinds.contains(&error.kind()) || descriptors::is_descriptor_shortage(error) || told_again()
}

/// Returns whether an error of sled is temporary. A lock held by another handle in this process is released
/// soon.
pub fn is_sled_shortage(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if is_shortage(error) || error.to_string().contains("acquire lock"))
}

/// Checks that a directory can be written to and that at least `min_free_bytes` bytes are free on its disk.
pub fn check_writable(directory: &Path, min_free_bytes: u64) -> io::Result<()> {
    check_free_space(directory, min_free_bytes)?;
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(&[1; PROBE_BYTES])?;
    file.sync_data()
}

/// Returns an error if less than `min_free_bytes` bytes are free on the disk of `directory`.
pub fn check_free_space(directory: &Path, min_free_bytes: u64) -> io::Result<()> {
    let free = FreeSpace::from_statvfs(&rustix::fs::statvfs(directory)?);
    if free.bytes < min_free_bytes {
        let text = format!("less than {} MiB are left free on its disk", min_free_bytes >> 20);
        return Err(io::Error::new(ErrorKind::StorageFull, text));
    }
    Ok(())
}

/// Size of a trial write, in bytes.
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
