//! Opens a store: takes the lock, opens the ledger (rebuilding it if necessary) and replays the tail of the
//! journal.

use crate::data_dir_lock::DataDirLock;
use crate::group_commit::{CommitPipeline, PipelineParts};
use crate::journal::{Disk, Position, Writer};
use crate::ledger::{Ledger, LedgerError, LedgerHandle};
use crate::message_locks::MessageLocks;
use crate::record::UnknownRecord;
use crate::replay::{ReplayError, ReplayProgress, SegmentChain, journal_end, replay_journal, segment_chain};
use crate::segment_cache::SegmentCache;
use crate::shortage::{check_writable, is_shortage};
use crate::wakeup::Wakeup;
use crate::{Store, StoreInner, erase, journal};
use mailtrail_mail::Clock;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("{0} is in use by another mailtrail; stop it first, or give this one another data_dir")]
    Locked(PathBuf),
    /// I/O or permission error.
    #[error("{path} cannot be used: {source}; it must be a directory that this user may write to")]
    Io {
        /// Path of the failed operation.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The directory never held a store.
    #[error(
        "there is no store in {0}; name the relay's configuration with --config, or run this on the relay's host"
    )]
    Missing(PathBuf),
    /// Not even an empty ledger can be created.
    #[error("the ledger in {path} cannot be made: {source}")]
    Ledger {
        /// Directory of the ledger.
        path: PathBuf,
        /// Cause.
        source: LedgerError,
    },
    /// The path cannot be opened or written now, and is unchanged.
    #[error("{path} cannot be written now: {reason}; free space, or fix the cause")]
    Shortage {
        /// Path of the failed operation.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// The journal holds records of a newer version.
    #[error("the journal was written by a newer version of mailtrail: {0}; install that version again")]
    NewerVersion(UnknownRecord),
    /// The journal holds an undecodable record with a good checksum.
    #[error(
        "{path}, byte {offset}: {record}, though its checksum is good; put a copy that `mailtrail store backup` made in the \
         place of data_dir, or move that file away, which loses all that is in it"
    )]
    UnreadableRecord {
        /// File of the segment.
        path: PathBuf,
        /// File offset of the record.
        offset: u64,
        /// Kind and version of the record.
        record: UnknownRecord,
    },
}

impl OpenError {
    /// Returns whether the same store may be opened later: space, a descriptor or permission is missing now.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Shortage { .. } => true,
            Self::Io { source, .. } => is_shortage(source),
            Self::Ledger { source, .. } => source.is_shortage(),
            Self::Locked(_) | Self::Missing(_) | Self::NewerVersion(_) | Self::UnreadableRecord { .. } => {
                false
            }
        }
    }
}

/// Findings and actions of opening a store.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Reason for rebuilding the ledger, if it was rebuilt.
    pub rebuild_reason: Option<String>,
    /// Records applied from the journal.
    pub replayed_records: u64,
    /// Bytes of the journal that are no records (torn tails and damage): segment, file offset, number of
    /// bytes.
    pub corrupt_ranges: Vec<(u32, u64, u64)>,
}

/// Options for opening a store.
pub struct OpenOptions<'a> {
    /// Data directory.
    pub data_dir: &'a Path,
    /// Source of the time.
    pub clock: Clock,
    /// Whether files may be written.
    pub writable: bool,
    /// Disk that the journal is written to.
    pub disk: Arc<dyn Disk>,
    /// Callback for the progress of a replay.
    pub on_progress: &'a mut dyn FnMut(ReplayProgress),
}

impl OpenOptions<'_> {
    /// Opens the store.
    pub fn open(self) -> Result<(Store, OpenReport), OpenError> {
        let Self { data_dir, clock, writable, disk, on_progress } = self;
        let (journal_dir, ledger_dir) = (data_dir.join("journal"), data_dir.join("ledger"));
        if writable {
            create_directories(data_dir, &journal_dir, &ledger_dir).map_err(io_error(data_dir))?;
        } else if !journal_dir.is_dir() {
            return Err(OpenError::Missing(data_dir.to_owned()));
        }
        let lock = DataDirLock::try_acquire(data_dir).map_err(io_error(data_dir))?;
        let lock = Arc::new(lock.ok_or_else(|| OpenError::Locked(data_dir.to_owned()))?);
        if writable {
            match journal::remove_unfinished_files(&*disk, &journal_dir) {
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "cannot remove unfinished journal files");
                }
                removed => removed.map_err(io_error(&journal_dir))?,
            }
            erase::warn_if_interrupted(data_dir);
        }
        let mut report = OpenReport::default();
        let chain = segment_chain(&journal_dir).map_err(io_error(&journal_dir))?;
        let paths = LedgerPaths { journal_dir: journal_dir.clone(), ledger_dir: ledger_dir.clone(), clock };
        let (current, end) = match paths.open_and_replay(&chain, REPLAY_THREADS, &mut report, on_progress) {
            Ok((opened_ledger, end)) => (LedgerHandle::new(opened_ledger), end),
            Err(error) if writable && error.is_shortage() => {
                let reason = error.to_string();
                tracing::error!(reason, "the ledger cannot be opened now; it is kept and tried again");
                let end = journal_end(&journal_dir, &chain).map_err(io_error(&journal_dir))?;
                (LedgerHandle::closed(reason), end)
            }
            Err(error) => return Err(error),
        };
        let queue_wakeup = Wakeup::default();
        let handle = Arc::new(current);
        let commit_pipeline = if writable {
            let last = chain.last().map_or(0, |(number, _)| *number);
            let writer = Writer::start_after(disk.clone(), &journal_dir, last, end, clock.now());
            let parts = PipelineParts {
                writer: writer.map_err(io_error(&journal_dir))?,
                end_position: Position { segment: last, offset: end },
                paths,
                handle: handle.clone(),
                clock,
                queue_wakeup: queue_wakeup.clone(),
                lock: lock.clone(),
            };
            Some(CommitPipeline::start(parts).map_err(io_error(data_dir))?)
        } else {
            None
        };
        let segment_cache = SegmentCache::new(journal_dir.clone());
        let (disk, compaction) = (disk.clone(), Mutex::default());
        let inner = StoreInner {
            journal_dir,
            ledger_dir,
            handle,
            commit_pipeline,
            segment_cache,
            disk,
            compaction,
            queue_wakeup,
            message_locks: MessageLocks::default(),
            rewind_requests: Mutex::default(),
            _lock: lock,
        };
        Ok((Store(Arc::new(inner)), report))
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}

/// Creates the directories, accessible by this user only, and syncs them so that they survive a power cut.
fn create_directories(data_dir: &Path, journal: &Path, ledger: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for directory in [data_dir, journal, ledger] {
        std::fs::create_dir_all(directory)?;
        if std::fs::metadata(directory)?.permissions().mode() & 0o777 != 0o700 {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
        }
    }
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    [data_dir, parent.unwrap_or(Path::new("."))]
        .into_iter()
        .try_for_each(|directory| File::open(directory)?.sync_all())
}

/// Directories of a ledger and its journal.
#[derive(Clone)]
pub struct LedgerPaths {
    /// Directory of the journal.
    pub journal_dir: PathBuf,
    /// Directory of the ledger generations.
    pub ledger_dir: PathBuf,
    /// Source of the time.
    pub clock: Clock,
}

impl LedgerPaths {
    /// Opens the ledger and applies the missing records of the journal; returns the end of the journal. A
    /// damaged ledger is set aside and rebuilt. A ledger that cannot be opened or written for now
    /// ([`OpenError::is_shortage`]) is left unchanged.
    pub fn open_and_replay(
        &self,
        chain: &SegmentChain,
        threads: usize,
        report: &mut OpenReport,
        progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(Ledger, u64), OpenError> {
        let mut opened_ledger = self.select_ledger(chain, report)?;
        let end = match replay_journal(&self.journal_dir, chain, &opened_ledger, threads, report, progress) {
            Err(ReplayError::Ledger(reason)) => {
                let damaged = opened_ledger.directory().to_owned();
                drop(opened_ledger);
                self.quarantine(&damaged).map_err(io_error(&self.ledger_dir))?;
                opened_ledger = create_for_rebuild(&self.ledger_dir, reason, report)?;
                replay_journal(&self.journal_dir, chain, &opened_ledger, threads, report, progress)
            }
            replayed => replayed,
        };
        let end = end.map_err(|error| match error {
            ReplayError::Ledger(reason) => io_error(&self.ledger_dir)(io::Error::other(reason)),
            ReplayError::Shortage(reason) => OpenError::Shortage { path: self.ledger_dir.clone(), reason },
            ReplayError::UnreadableRecord { record, .. } if record.is_newer => {
                OpenError::NewerVersion(record)
            }
            ReplayError::UnreadableRecord { record, segment, offset } => OpenError::UnreadableRecord {
                path: journal::segment_path(&self.journal_dir, segment),
                offset,
                record,
            },
            ReplayError::Io(source) => io_error(&self.journal_dir)(source),
        })?;
        Ok((opened_ledger, end))
    }

    /// Selects the newest ledger that fits the journal, or an empty one. Any other ledger is left from an
    /// interrupted rebuild.
    fn select_ledger(&self, chain: &SegmentChain, report: &mut OpenReport) -> Result<Ledger, OpenError> {
        let ledger = &self.ledger_dir;
        let (mut best, mut problem): (Option<Ledger>, Option<String>) = (None, None);
        for number in ledger_generations(ledger).map_err(io_error(ledger))? {
            let directory = ledger.join(number.to_string());
            match open_if_current(&directory, chain) {
                Ok(None) => {
                    tracing::info!(directory = %directory.display(), "interrupted ledger build removed; starting again");
                    std::fs::remove_dir_all(&directory).map_err(io_error(&directory))?;
                }
                Ok(Some(opened_ledger)) => {
                    let better =
                        best.as_ref().is_none_or(|best| best.position().ok() < opened_ledger.position().ok());
                    let worse = if better { best.replace(opened_ledger) } else { Some(opened_ledger) };
                    if let Some(worse) = worse {
                        let left = worse.directory().to_owned();
                        drop(worse);
                        std::fs::remove_dir_all(&left).map_err(io_error(&left))?;
                    }
                }
                Err(UnusableLedger::Shortage(reason)) => {
                    return Err(OpenError::Shortage { path: directory, reason });
                }
                Err(UnusableLedger::Damaged(error)) => {
                    problem = Some(error);
                    self.quarantine(&directory).map_err(io_error(&directory))?;
                }
            }
        }
        match (best, problem) {
            (Some(best), _) => Ok(best),
            (None, None) => create_empty_ledger(ledger),
            (None, Some(problem)) => create_for_rebuild(ledger, problem, report),
        }
    }

    /// Moves a damaged ledger aside for inspection. Only the latest one is kept.
    fn quarantine(&self, directory: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.ledger_dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension.to_string_lossy().starts_with(DAMAGED_EXTENSION))
            {
                std::fs::remove_dir_all(&path)?;
            }
        }
        let aside = directory.with_extension(format!("{DAMAGED_EXTENSION}-{}", self.clock.now().as_secs()));
        tracing::warn!(aside = %aside.display(), "a damaged ledger is kept aside");
        std::fs::rename(directory, aside)
    }
}

/// Reason why a ledger is not used.
enum UnusableLedger {
    /// It cannot be opened now.
    Shortage(String),
    /// It is permanently unusable.
    Damaged(String),
}

impl From<LedgerError> for UnusableLedger {
    fn from(error: LedgerError) -> Self {
        if error.is_shortage() { Self::Shortage(error.to_string()) } else { Self::Damaged(error.to_string()) }
    }
}

impl From<::sled::Error> for UnusableLedger {
    fn from(error: ::sled::Error) -> Self {
        LedgerError::from(error).into()
    }
}

/// Opens a ledger generation; returns `None` if it was not finished.
fn open_if_current(directory: &Path, chain: &SegmentChain) -> Result<Option<Ledger>, UnusableLedger> {
    let opened = Ledger::open(directory);
    if matches!(opened, Err(LedgerError::Panicked)) {
        // sled panics on damaged files, and occasionally where it cannot write.
        check_writable(directory, MIN_FREE_BYTES)
            .map_err(|error| UnusableLedger::Shortage(error.to_string()))?;
    }
    let opened_ledger = opened?;
    match opened_ledger.position()? {
        Some(position) if !chain.iter().any(|(number, _)| *number == position.segment) => {
            Err(UnusableLedger::Damaged("it does not belong to this journal".to_owned()))
        }
        Some(_) => Ok(Some(opened_ledger)),
        None => Ok((!opened_ledger.is_incomplete()?).then_some(opened_ledger)),
    }
}

/// Lists the numbers of the existing ledger generations.
pub fn ledger_generations(ledger: &Path) -> io::Result<Vec<u32>> {
    if !ledger.is_dir() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(ledger)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// Creates an empty ledger under the next number.
pub fn create_empty_ledger(ledger: &Path) -> Result<Ledger, OpenError> {
    let number =
        ledger_generations(ledger).map_err(io_error(ledger))?.into_iter().max().unwrap_or_default() + 1;
    let directory = ledger.join(number.to_string());
    Ledger::open(&directory).map_err(|source| OpenError::Ledger { path: directory, source })
}

fn create_for_rebuild(ledger: &Path, problem: String, report: &mut OpenReport) -> Result<Ledger, OpenError> {
    tracing::warn!(reason = problem, "the ledger is rebuilt from the journal");
    report.rebuild_reason = Some(problem);
    create_empty_ledger(ledger)
}

/// Bytes of the disk that must be free before the ledger is written: sled does not recover from a failed
/// write.
pub const MIN_FREE_BYTES: u64 = 4 << 20;
/// Threads that write an empty ledger.
const REPLAY_THREADS: usize = 2;
const DAMAGED_EXTENSION: &str = "damaged";
