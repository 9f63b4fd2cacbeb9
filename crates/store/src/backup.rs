//! Copies the journal while it is being written.
//!
//! The journal is the source of truth, so a copy of it is a copy of the store: the ledger is rebuilt when the
//! copy is opened. The copy holds everything up to one position, which lies after every record that was
//! acknowledged before the copy began. Maintenance waits in the meantime: it could drop the body of a message
//! that finishes after that position.

use crate::commit_command::CommitError;
use crate::inner::StoreInner;
use crate::journal::{Segment, segment_path};
use crate::log_cursor::LogCursor;
use crate::read_error::ReadError;
use crate::replay::{ReplayProgress, segment_chain, truncate_at};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Result of a backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupReport {
    /// Number of copied segments.
    pub segments: u64,
    /// Number of copied bytes.
    pub bytes: u64,
    /// Position up to which the copy is complete.
    pub until: LogCursor,
}

/// Reason why a backup failed; a failed copy is removed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target exists already.
    #[error("{0} is there already and is no empty directory; name one that does not exist")]
    TargetOccupied(PathBuf),
    /// The target lies among the store's own files.
    #[error("{0} lies within the store's own files; choose another directory, preferably on another disk")]
    InsideStore(PathBuf),
    /// I/O or permission error.
    #[error("{path} cannot be used: {source}; the relay's user must be able to write there")]
    Io {
        /// Path of the failed operation.
        path: PathBuf,
        /// Error of the operation.
        source: io::Error,
    },
    /// Read error of the store.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store has failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for BackupError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

impl StoreInner {
    /// Copies the journal and the relay's self-signed certificate into a new directory that can replace the
    /// data directory. `target` is absolute. It exists only once the copy is complete and on stable storage.
    /// An error from `progress` stops the copy. Blocks. Traffic continues; maintenance waits.
    pub(crate) fn back_up(
        &self,
        target: &Path,
        on_progress: &mut dyn FnMut(ReplayProgress) -> io::Result<()>,
    ) -> Result<BackupReport, BackupError> {
        let _upkeep = self.lock_maintenance();
        let (parent, name) = self.resolve_backup_target(target)?;
        if let Some(committer) = &self.commit_pipeline {
            committer.drain_blocking()?;
        }
        let position = self.ledger()?.position()?.unwrap_or_default();
        let chain = truncate_at(segment_chain(&self.journal_dir).map_err(ReadError::from)?, position);
        let mut sources = Vec::with_capacity(chain.len());
        for (number, end) in chain {
            sources.push(BackupSource::open(&self.journal_dir, number, end).map_err(ReadError::from)?);
        }
        let total = sources.iter().map(|source| source.length).sum();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BackupError::Io { path, source }
        };
        let free = self.disk.free_space(&parent).and_then(|free| free.check_available(total));
        free.map_err(failed(&parent))?;
        let unfinished = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".unfinished")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(failed(&parent))?;
        let copy = BackupCopy {
            directory: unfinished.path(),
            state: ReplayProgress { done: 0, total },
            on_progress,
        };
        copy.copy_all(&self.journal_dir, &sources).map_err(failed(unfinished.path()))?;
        let placed = std::fs::rename(unfinished.path(), target).and_then(|()| sync_directory(&parent));
        placed.map_err(failed(target))?;
        // The copy was renamed.
        let _ = unfinished.keep();
        Ok(BackupReport { segments: sources.len() as u64, bytes: total, until: LogCursor(position) })
    }

    /// Returns the parent directory and the name of the copy, if the target is allowed.
    fn resolve_backup_target(&self, target: &Path) -> Result<(PathBuf, String), BackupError> {
        let failed = |path: &Path, source| BackupError::Io { path: path.to_owned(), source };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(BackupError::TargetOccupied(target.to_owned()));
        };
        match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(false) => return Err(BackupError::TargetOccupied(target.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(BackupError::TargetOccupied(target.to_owned()));
            }
            Err(error) => return Err(failed(target, error)),
        }
        let parent = parent.canonicalize().map_err(|error| failed(parent, error))?;
        for own in [&self.journal_dir, &self.ledger_dir] {
            let own = own.canonicalize().map_err(|error| failed(own, error))?;
            if parent.join(name).starts_with(own) {
                return Err(BackupError::InsideStore(target.to_owned()));
            }
        }
        Ok((parent, name.to_string_lossy().into_owned()))
    }
}

/// A segment and the range to copy.
struct BackupSource {
    number: u32,
    file: File,
    length: u64,
}

impl BackupSource {
    /// Damaged bytes are copied as they are.
    fn open(journal: &Path, number: u32, end: Option<u64>) -> io::Result<Self> {
        let file = File::open(segment_path(journal, number))?;
        let there = file.metadata()?.len();
        let trusted = Segment::open(journal, number, end).map_or(there, |segment| segment.trusted_length());
        Ok(Self { number, file, length: trusted.min(there) })
    }
}

struct BackupCopy<'a> {
    directory: &'a Path,
    state: ReplayProgress,
    on_progress: &'a mut dyn FnMut(ReplayProgress) -> io::Result<()>,
}

impl BackupCopy<'_> {
    /// Returns when everything is on stable storage.
    fn copy_all(mut self, journal: &Path, sources: &[BackupSource]) -> io::Result<()> {
        let to = create_private_dir(&self.directory.join("journal"))?;
        for source in sources {
            self.copy_segment(source, &segment_path(&to, source.number))?;
        }
        sync_directory(&to)?;
        if let Some(data_dir) = journal.parent() {
            copy_certificate(&data_dir.join(TLS_DIR), &self.directory.join(TLS_DIR))?;
        }
        sync_directory(self.directory)
    }

    fn copy_segment(&mut self, source: &BackupSource, to: &Path) -> io::Result<()> {
        let (mut copy, mut left) = (create_private_file(to)?, source.length);
        while left > 0 {
            let copied = io::copy(&mut (&source.file).take(left.min(COPY_CHUNK_BYTES)), &mut copy)?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= copied;
            self.state.done += copied;
            (self.on_progress)(self.state)?;
        }
        copy.sync_all()
    }
}

/// Copies the relay's self-signed certificate, if there is one: clients may be configured to trust it.
fn copy_certificate(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    create_private_dir(to)?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let mut copy = create_private_file(&to.join(entry.file_name()))?;
            io::copy(&mut File::open(entry.path())?, &mut copy)?;
            copy.sync_all()?;
        }
    }
    sync_directory(to)
}

/// Creates a directory that only this user can access.
fn create_private_dir(directory: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    Ok(directory.to_owned())
}

/// Creates a file that only this user can access.
fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Directory of the relay's self-signed certificate and key within a data directory.
const TLS_DIR: &str = "tls";
/// Bytes copied between two progress reports.
const COPY_CHUNK_BYTES: u64 = 4 << 20;
