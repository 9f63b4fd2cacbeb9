use crate::journal::Position;
use crate::ledger::memtable::Memtable;
use crate::ledger::write_batch::WriteBatch;
use crate::ledger::{apply, keys, rows};
use crate::record::JournalRecord;
use crate::shortage::{is_shortage, is_sled_shortage};
use sled::IVec;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The projection on disk.
pub struct Ledger {
    db: sled::Db,
    /// sled's file once more, held open to be synced: there may be no descriptor left when it is to be.
    sled_log: File,
    memtable: Memtable,
    directory: PathBuf,
}

/// The projection in use. One that was built anew takes its place while lookups go on.
pub struct LedgerHandle(RwLock<Result<Arc<Ledger>, String>>);

impl LedgerHandle {
    /// Starts with that one.
    pub fn new(projection: Ledger) -> Self {
        Self(RwLock::new(Ok(Arc::new(projection))))
    }

    /// Starts with none, and why.
    pub fn closed(reason: String) -> Self {
        Self(RwLock::new(Err(reason)))
    }

    /// The one to ask now; where there is none, an error that says why.
    pub fn load(&self) -> sled::Result<Arc<Ledger>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.map_err(sled::Error::Unsupported)
    }

    /// Puts another in its place; gives back the one before.
    pub fn replace(&self, projection: Ledger) -> Option<Arc<Ledger>> {
        self.swap(Ok(Arc::new(projection)))
    }

    /// Leaves none in its place until another is put there; gives back the one before.
    pub fn close(&self, reason: String) -> Option<Arc<Ledger>> {
        self.swap(Err(reason))
    }

    fn swap(&self, next: Result<Arc<Ledger>, String>) -> Option<Arc<Ledger>> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, next).ok()
    }
}

/// Why a projection cannot be opened; it is rebuilt then.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// sled says so.
    #[error("sled cannot open it: {0}")]
    Sled(#[from] sled::Error),
    /// sled panicked on damaged files.
    #[error("sled panicked while opening it: its files are damaged")]
    Panicked,
    /// Made by another version.
    #[error("it was made by another version of mailtrail")]
    SchemaMismatch,
    /// Left-over files cannot be removed.
    #[error("its files cannot be read")]
    Io(#[from] std::io::Error),
}

impl LedgerError {
    /// Whether it may be opened later as it is.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Sled(error) => is_sled_shortage(error),
            Self::Io(error) => is_shortage(error),
            Self::Panicked | Self::SchemaMismatch => false,
        }
    }
}

impl Ledger {
    /// Opens it, or makes an empty one.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        remove_unfinished_snapshots(directory)?;
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_INTERVAL_MS));
        // Damaged files make sled panic, so it opens on a thread of its own.
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

    /// The place in the journal up to which it is complete.
    pub fn position(&self) -> sled::Result<Option<Position>> {
        self.memtable.position()
    }

    /// Applies a group of records; the journal is applied up to `position` then. Lookups see it on return; it is in
    /// memory until the next flush.
    pub fn apply_records<'a>(
        &self,
        records: impl IntoIterator<Item = &'a JournalRecord>,
        position: Position,
    ) -> sled::Result<()> {
        let mut overlay = WriteBatch::new(&self.memtable);
        for kept in records {
            apply::apply_record(&mut overlay, &kept.record, kept.position, kept.body_length)?;
        }
        overlay.commit(Some(position));
        Ok(())
    }

    /// Whether so much was applied that it is to be written before more is.
    pub fn is_full(&self) -> bool {
        self.memtable.is_full()
    }

    /// When what was applied is to be written at the latest; `None` when all of it is.
    pub fn flush_due(&self) -> Option<Instant> {
        self.memtable.flush_due()
    }

    /// Returns when nothing is being handed to sled: who looks then hardly waits.
    pub async fn wait_idle(&self) {
        self.memtable.wait_idle().await;
    }

    /// Hands what was applied to sled. What is handed over survives the end of the process a little later, a power cut
    /// with the next checkpoint.
    pub fn flush(&self) -> sled::Result<()> {
        self.memtable.flush()
    }

    /// Makes everything applied so far survive a power cut: sled's flush alone does not.
    pub fn checkpoint(&self) -> Result<(), LedgerError> {
        self.memtable.flush()?;
        self.sync_to_disk()
    }

    /// Whether it has rows and no position: its making was cut off, and nobody knows what is missing.
    pub fn is_incomplete(&self) -> sled::Result<bool> {
        let of_the_journal = |row: &sled::Result<(IVec, IVec)>| {
            row.as_ref().map_or(true, |(key, _)| !key.starts_with(keys::META_PREFIX))
        };
        let first = self.memtable.scan_prefix(b"").find(of_the_journal).transpose()?;
        Ok(first.is_some() && self.memtable.position()?.is_none())
    }

    /// Writes what was applied to a projection that is being made from nothing, from `threads` threads.
    pub fn bulk_flush(&self, threads: usize) -> sled::Result<()> {
        self.memtable.bulk_flush(threads)
    }

    /// Ends the making: the position comes when everything else is on stable storage.
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

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of its files.
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

/// The store's own lock is ours, so whoever still has sled's is a thread of sled's that is about to let go of it.
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

/// A snapshot that was being written when the process ended makes `open` fail; it is worth nothing.
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

/// How long sled may take to let go of its files.
const UNLOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of sled's page cache.
const CACHE_BYTES: u64 = 16 << 20;
/// sled's own background flush, which also collects its garbage.
const FLUSH_INTERVAL_MS: u64 = 500;
