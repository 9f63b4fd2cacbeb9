//! The ledger on disk: opening, applying records, flushing and checkpoints.

use crate::ledger::apply::apply_record;
use crate::ledger::memtable::Memtable;
use crate::ledger::write_batch::WriteBatch;
use crate::ledger::{keys, rows};
use crate::position::Position;
use crate::record::JournalRecord;
use crate::shortage::{is_shortage, is_sled_shortage};
use sled::IVec;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The ledger on disk.
pub struct Ledger {
    db: sled::Db,
    /// A second descriptor of sled's log, held open for syncs: there may be no free descriptor at that time.
    sled_log: File,
    memtable: Memtable,
    directory: PathBuf,
}

/// Handle to the ledger in use. A rebuilt ledger can replace it while lookups continue.
pub struct LedgerHandle(RwLock<Result<Arc<Ledger>, String>>);

impl LedgerHandle {
    /// Creates a handle to an open ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self(RwLock::new(Ok(Arc::new(ledger))))
    }

    /// Creates a handle without a ledger, with the reason.
    pub fn closed(reason: String) -> Self {
        Self(RwLock::new(Err(reason)))
    }

    /// Returns the ledger in use, or an error with the reason why it is closed.
    pub fn load(&self) -> sled::Result<Arc<Ledger>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.map_err(sled::Error::Unsupported)
    }

    /// Replaces the ledger; returns the previous one.
    pub fn replace(&self, ledger: Ledger) -> Option<Arc<Ledger>> {
        self.swap(Ok(Arc::new(ledger)))
    }

    /// Closes the ledger until another one is set; returns the previous one.
    pub fn close(&self, reason: String) -> Option<Arc<Ledger>> {
        self.swap(Err(reason))
    }

    fn swap(&self, next: Result<Arc<Ledger>, String>) -> Option<Arc<Ledger>> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, next).ok()
    }
}

/// Reason why a ledger cannot be opened; it is then rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Error that sled returned.
    #[error("sled cannot open it: {0}")]
    Sled(#[from] sled::Error),
    /// sled panicked on damaged files.
    #[error("sled panicked while opening it: its files are damaged")]
    Panicked,
    /// Written by another version.
    #[error("it was written by another version of mailtrail")]
    SchemaMismatch,
    /// Left-over files cannot be removed.
    #[error("its files cannot be read")]
    Io(#[from] std::io::Error),
}

impl LedgerError {
    /// Returns whether the same ledger may be opened later.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Sled(error) => is_sled_shortage(error),
            Self::Io(error) => is_shortage(error),
            Self::Panicked | Self::SchemaMismatch => false,
        }
    }
}

impl Ledger {
    /// Opens a ledger, or creates an empty one.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        remove_unfinished_snapshots(directory)?;
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_INTERVAL_MS));
        // sled panics on damaged files, so it is opened on a separate thread.
        let db = std::thread::spawn(move || open_when_unlocked(&config))
            .join()
            .map_err(|_| LedgerError::Panicked)??;
        match db.get(keys::SCHEMA_KEY)? {
            None if db.is_empty() => drop(db.insert(keys::SCHEMA_KEY, &rows::SCHEMA_VERSION.to_be_bytes())?),
            Some(version) if *version == rows::SCHEMA_VERSION.to_be_bytes() => {}
            _ => return Err(LedgerError::SchemaMismatch),
        }
        let memtable = Memtable::new((*db).clone())?;
        let sled_log = File::open(directory.join("db"))?;
        Ok(Self { db, sled_log, memtable, directory: directory.to_owned() })
    }

    /// Returns the journal position up to which the ledger is complete.
    pub fn position(&self) -> sled::Result<Option<Position>> {
        self.memtable.position()
    }

    /// Applies a group of records, after which the journal is applied up to `position`. Lookups see it on
    /// return. It stays in memory until the next flush.
    pub fn apply_records<'a>(
        &self,
        records: impl IntoIterator<Item = &'a JournalRecord>,
        position: Position,
    ) -> sled::Result<()> {
        let mut overlay = WriteBatch::new(&self.memtable);
        for record in records {
            apply_record(&mut overlay, &record.record, record.position, record.body_length)?;
        }
        overlay.commit(Some(position));
        Ok(())
    }

    /// Returns whether the applied changes must be flushed before more are applied.
    pub fn is_full(&self) -> bool {
        self.memtable.is_full()
    }

    /// Returns when the applied changes must be flushed; `None` if there are none.
    pub fn flush_due(&self) -> Option<Instant> {
        self.memtable.flush_due()
    }

    /// Returns when no batch is being written to sled, so that a lookup hardly waits.
    pub async fn wait_idle(&self) {
        self.memtable.wait_idle().await;
    }

    /// Writes the applied changes to sled. They survive the end of the process shortly afterwards, and a
    /// power cut after the next checkpoint.
    pub fn flush(&self) -> sled::Result<()> {
        self.memtable.flush()
    }

    /// Makes all applied changes survive a power cut; sled's flush alone does not.
    pub fn checkpoint(&self) -> Result<(), LedgerError> {
        self.memtable.flush()?;
        self.sync_to_disk()
    }

    /// Returns whether the ledger has rows but no position: its build was interrupted, and the missing rows
    /// are unknown.
    pub fn is_incomplete(&self) -> sled::Result<bool> {
        let of_the_journal = |row: &sled::Result<(IVec, IVec)>| {
            row.as_ref().map_or(true, |(key, _)| !key.starts_with(keys::META_PREFIX))
        };
        let first = self.memtable.scan_prefix(b"").find(of_the_journal).transpose()?;
        Ok(first.is_some() && self.memtable.position()?.is_none())
    }

    /// Writes the applied changes to a ledger that is built from nothing, from `threads` threads.
    pub fn bulk_flush(&self, threads: usize) -> sled::Result<()> {
        self.memtable.bulk_flush(threads)
    }

    /// Ends a build: writes the position once everything else is on stable storage.
    pub fn finish_bulk_load(&self, threads: usize) -> Result<(), LedgerError> {
        self.memtable.bulk_flush(threads)?;
        self.sync_to_disk()?;
        Ok(self.memtable.flush()?)
    }

    fn sync_to_disk(&self) -> Result<(), LedgerError> {
        self.db.flush()?;
        self.sled_log.sync_data()?;
        Ok(())
    }

    /// Returns the ledger's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the size of the ledger's files, in bytes.
    pub fn size_on_disk(&self) -> sled::Result<u64> {
        self.db.size_on_disk()
    }

    #[cfg(test)]
    pub(super) fn tree(&self) -> &sled::Tree {
        &self.db
    }

    pub(super) fn memtable(&self) -> &Memtable {
        &self.memtable
    }
}

/// Opens sled. The process holds the store's own lock, so a locked sled means that one of its threads is
/// about to release it.
fn open_when_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let deadline = Instant::now() + UNLOCK_TIMEOUT;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("lock") && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

/// Removes unfinished snapshots: they make `open` fail after an interrupted write, and are worthless.
fn remove_unfinished_snapshots(directory: &Path) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Maximum time for sled to release its files.
const UNLOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of sled's page cache, in bytes.
const CACHE_BYTES: u64 = 16 << 20;
/// Interval of sled's own background flush, which also collects its garbage.
const FLUSH_INTERVAL_MS: u64 = 500;
