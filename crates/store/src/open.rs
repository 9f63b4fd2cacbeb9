//! Opens a store: takes the lock, opens the ledger (rebuilding it if necessary) and replays the tail of the
//! journal.

use crate::data_dir_lock::DataDirLock;
use crate::erase::warn_if_interrupted;
use crate::group_commit::{CommitPipeline, PipelineParts};
use crate::inner::StoreInner;
use crate::journal::{Disk, Writer, remove_unfinished_files};
use crate::ledger::LedgerHandle;
use crate::ledger_paths::LedgerPaths;
use crate::message_locks::MessageLocks;
use crate::open_error::{OpenError, io_error};
use crate::position::Position;
use crate::replay::{OpenReport, ReplayProgress, journal_end, segment_chain};
use crate::segment_cache::SegmentCache;
use crate::shortage::is_shortage;
use crate::wakeup::Wakeup;
use mailtrail_mail::Clock;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Options for opening a store.
pub struct OpenOptions<'a> {
    /// Directory that holds journal and ledger.
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
    /// Opens the store; returns its shared state and the report.
    pub fn open(self) -> Result<(Arc<StoreInner>, OpenReport), OpenError> {
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
            match remove_unfinished_files(&*disk, &journal_dir) {
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "cannot remove unfinished journal files");
                }
                removed => removed.map_err(io_error(&journal_dir))?,
            }
            warn_if_interrupted(data_dir);
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
        Ok((Arc::new(inner), report))
    }
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

/// Threads that write an empty ledger.
const REPLAY_THREADS: usize = 2;
