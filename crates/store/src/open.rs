//! Opening a store: the lock, the projection (rebuilt where it must be), the tail of the journal.

use crate::data_dir_lock::Lock;
use crate::group_commit::{Committer, Parts};
use crate::journal::{Disk, Place, Writer};
use crate::ledger::{Current, Projection, ProjectionError};
use crate::message_locks::Hands;
use crate::record::UnknownRecord;
use crate::replay::{Chain, Progress, ReplayError, chain, find_end, replay};
use crate::segment_cache::Segments;
use crate::shortage::{is_shortage, try_to_write};
use crate::wakeup::Wakeup;
use crate::{Inner, Store, erase, journal};
use mailtrail_mail::Clock;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another mailtrail; stop it first, or give this one another data_dir")]
    Locked(PathBuf),
    /// The disk or its permissions.
    #[error("{path} cannot be used: {source}; it must be a directory that this user may write to")]
    Io {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Nothing was ever kept there.
    #[error("there is no store in {0}; name the relay's configuration with --config, or ask where it runs")]
    Missing(PathBuf),
    /// Even an empty projection cannot be made.
    #[error("the ledger in {path} cannot be made: {source}")]
    Projection {
        /// Where.
        path: PathBuf,
        /// Why.
        source: ProjectionError,
    },
    /// It cannot be opened or written now, and is as it was.
    #[error("{path} cannot be written now: {reason}; make room, or mend what the cause says")]
    Shortage {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        reason: String,
    },
    /// The journal holds records of a newer version.
    #[error("the journal was written by a newer version of mailtrail: {0}; install that version again")]
    Newer(UnknownRecord),
    /// The journal holds a record that its checksum vouches for and nobody can read.
    #[error(
        "{path}, byte {at}: {record}, though its checksum is good; put a copy that `mailtrail store backup` made in the \
         place of data_dir, or move that file away, which loses all that is in it"
    )]
    Unreadable {
        /// The segment's file.
        path: PathBuf,
        /// Where the record begins in it.
        at: u64,
        /// Which.
        record: UnknownRecord,
    },
}

impl OpenError {
    /// Whether the same store may be opened later: there is no room, no descriptor or no permission now.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Shortage { .. } => true,
            Self::Io { source, .. } => is_shortage(source),
            Self::Projection { source, .. } => source.is_shortage(),
            Self::Locked(_) | Self::Missing(_) | Self::Newer(_) | Self::Unreadable { .. } => false,
        }
    }
}

/// What was found and done while opening.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Why the projection was rebuilt, if it was.
    pub rebuilt: Option<String>,
    /// Records applied from the journal.
    pub replayed: u64,
    /// Bytes of the journal that are no records, torn tails and damage: segment, byte of its file, how many.
    pub damaged: Vec<(u32, u64, u64)>,
}

/// How a store is opened.
pub struct Opening<'a> {
    /// The data directory.
    pub data_dir: &'a Path,
    /// The time.
    pub clock: Clock,
    /// Whether anything may be written.
    pub writing: bool,
    /// What the journal is written to.
    pub disk: Arc<dyn Disk>,
    /// Hears how far a replay is.
    pub progress: &'a mut dyn FnMut(Progress),
}

impl Opening<'_> {
    /// Opens it.
    pub fn open(self) -> Result<(Store, OpenReport), OpenError> {
        let Self { data_dir, clock, writing, disk, progress } = self;
        let (journal, ledger) = (data_dir.join("journal"), data_dir.join("ledger"));
        if writing {
            prepare(data_dir, &journal, &ledger).map_err(io_error(data_dir))?;
        } else if !journal.is_dir() {
            return Err(OpenError::Missing(data_dir.to_owned()));
        }
        let lock = Lock::take(data_dir).map_err(io_error(data_dir))?;
        let lock = Arc::new(lock.ok_or_else(|| OpenError::Locked(data_dir.to_owned()))?);
        if writing {
            match journal::remove_unfinished(&*disk, &journal) {
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "unfinished files of the journal cannot be removed now");
                }
                removed => removed.map_err(io_error(&journal))?,
            }
            erase::remind(data_dir);
        }
        let mut report = OpenReport::default();
        let chain = chain(&journal).map_err(io_error(&journal))?;
        let place = LedgerPlace { journal: journal.clone(), ledger: ledger.clone(), clock };
        let (current, end) = match place.bring_up(&chain, THREADS, &mut report, progress) {
            Ok((projection, end)) => (Current::new(projection), end),
            Err(error) if writing && error.is_shortage() => {
                let reason = error.to_string();
                tracing::error!(reason, "the ledger cannot be opened now; it is kept and tried again");
                let end = find_end(&journal, &chain).map_err(io_error(&journal))?;
                (Current::closed(reason), end)
            }
            Err(error) => return Err(error),
        };
        let due = Wakeup::default();
        let current = Arc::new(current);
        let committer = if writing {
            let last = chain.last().map_or(0, |(number, _)| *number);
            let writer = Writer::start(disk.clone(), &journal, last, end, clock.now());
            let parts = Parts {
                writer: writer.map_err(io_error(&journal))?,
                end: Place { segment: last, offset: end },
                place,
                current: current.clone(),
                clock,
                due: due.clone(),
                lock: lock.clone(),
            };
            Some(Committer::start(parts).map_err(io_error(data_dir))?)
        } else {
            None
        };
        let segments = Segments::new(journal.clone());
        let (disk, upkeep) = (disk.clone(), Mutex::default());
        let inner = Inner {
            journal,
            ledger,
            current,
            committer,
            segments,
            disk,
            upkeep,
            due,
            hands: Hands::default(),
            rewinds: Mutex::default(),
            _lock: lock,
        };
        Ok((Store(Arc::new(inner)), report))
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}

/// Makes the directories, for this user only, and makes them survive a power cut.
fn prepare(data_dir: &Path, journal: &Path, ledger: &Path) -> io::Result<()> {
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

/// Where a ledger and its journal are.
#[derive(Clone)]
pub struct LedgerPlace {
    /// The journal's directory.
    pub journal: PathBuf,
    /// That of the projections.
    pub ledger: PathBuf,
    /// The time.
    pub clock: Clock,
}

impl LedgerPlace {
    /// Opens the ledger, and applies to it what it lacks of the journal; returns where that ends. A damaged one is set
    /// aside and made anew. What cannot be opened or written for now ([`OpenError::is_shortage`]) is left as it is.
    pub fn bring_up(
        &self,
        chain: &Chain,
        threads: usize,
        report: &mut OpenReport,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Projection, u64), OpenError> {
        let mut projection = self.usable_projection(chain, report)?;
        let end = match replay(&self.journal, chain, &projection, threads, report, progress) {
            Err(ReplayError::Projection(reason)) => {
                let damaged = projection.directory().to_owned();
                drop(projection);
                self.set_aside(&damaged).map_err(io_error(&self.ledger))?;
                projection = made_anew(&self.ledger, reason, report)?;
                replay(&self.journal, chain, &projection, threads, report, progress)
            }
            replayed => replayed,
        };
        let end = end.map_err(|error| match error {
            ReplayError::Projection(reason) => io_error(&self.ledger)(io::Error::other(reason)),
            ReplayError::Shortage(reason) => OpenError::Shortage { path: self.ledger.clone(), reason },
            ReplayError::Unreadable { record, .. } if record.is_newer => OpenError::Newer(record),
            ReplayError::Unreadable { record, segment, at } => {
                OpenError::Unreadable { path: journal::segment_path(&self.journal, segment), at, record }
            }
            ReplayError::Io(source) => io_error(&self.journal)(source),
        })?;
        Ok((projection, end))
    }

    /// The newest projection that fits the journal, else an empty one. Another one is a left-over of its making.
    fn usable_projection(&self, chain: &Chain, report: &mut OpenReport) -> Result<Projection, OpenError> {
        let ledger = &self.ledger;
        let (mut best, mut problem): (Option<Projection>, Option<String>) = (None, None);
        for number in generations(ledger).map_err(io_error(ledger))? {
            let directory = ledger.join(number.to_string());
            match fitting(&directory, chain) {
                Ok(None) => {
                    tracing::info!(directory = %directory.display(), "the making of a ledger was cut off and begins anew");
                    std::fs::remove_dir_all(&directory).map_err(io_error(&directory))?;
                }
                Ok(Some(projection)) => {
                    let better =
                        best.as_ref().is_none_or(|best| best.position().ok() < projection.position().ok());
                    let worse = if better { best.replace(projection) } else { Some(projection) };
                    if let Some(worse) = worse {
                        let left = worse.directory().to_owned();
                        drop(worse);
                        std::fs::remove_dir_all(&left).map_err(io_error(&left))?;
                    }
                }
                Err(Unfit::Shortage(reason)) => return Err(OpenError::Shortage { path: directory, reason }),
                Err(Unfit::Damaged(error)) => {
                    problem = Some(error);
                    self.set_aside(&directory).map_err(io_error(&directory))?;
                }
            }
        }
        match (best, problem) {
            (Some(best), _) => Ok(best),
            (None, None) => empty(ledger),
            (None, Some(problem)) => made_anew(ledger, problem, report),
        }
    }

    /// A damaged projection is kept aside for whoever wants to look; only the last one.
    fn set_aside(&self, directory: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.ledger)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension.to_string_lossy().starts_with(DAMAGED)) {
                std::fs::remove_dir_all(&path)?;
            }
        }
        let aside = directory.with_extension(format!("{DAMAGED}-{}", self.clock.now().seconds()));
        tracing::warn!(aside = %aside.display(), "a damaged ledger is kept aside");
        std::fs::rename(directory, aside)
    }
}

/// Why a projection is not used.
enum Unfit {
    /// It cannot be opened now.
    Shortage(String),
    /// It cannot be used any more.
    Damaged(String),
}

impl From<ProjectionError> for Unfit {
    fn from(error: ProjectionError) -> Self {
        if error.is_shortage() { Self::Shortage(error.to_string()) } else { Self::Damaged(error.to_string()) }
    }
}

impl From<::sled::Error> for Unfit {
    fn from(error: ::sled::Error) -> Self {
        ProjectionError::from(error).into()
    }
}

/// `None` for one that was not finished.
fn fitting(directory: &Path, chain: &Chain) -> Result<Option<Projection>, Unfit> {
    let opened = Projection::open(directory);
    if matches!(opened, Err(ProjectionError::Panicked)) {
        // sled panics on damaged files, and now and then where it cannot write.
        try_to_write(directory, LEAST_ROOM).map_err(|error| Unfit::Shortage(error.to_string()))?;
    }
    let projection = opened?;
    match projection.position()? {
        Some(place) if !chain.iter().any(|(number, _)| *number == place.segment) => {
            Err(Unfit::Damaged("it does not belong to this journal".to_owned()))
        }
        Some(_) => Ok(Some(projection)),
        None => Ok((!projection.is_unfinished()?).then_some(projection)),
    }
}

/// The numbers of the projections that are there.
pub fn generations(ledger: &Path) -> io::Result<Vec<u32>> {
    if !ledger.is_dir() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(ledger)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// An empty projection under the next number.
pub fn empty(ledger: &Path) -> Result<Projection, OpenError> {
    let number = generations(ledger).map_err(io_error(ledger))?.into_iter().max().unwrap_or_default() + 1;
    let directory = ledger.join(number.to_string());
    Projection::open(&directory).map_err(|source| OpenError::Projection { path: directory, source })
}

fn made_anew(ledger: &Path, problem: String, report: &mut OpenReport) -> Result<Projection, OpenError> {
    tracing::warn!(reason = problem, "the ledger is rebuilt from the journal");
    report.rebuilt = Some(problem);
    empty(ledger)
}

/// Bytes of the disk that must be left free for the ledger to be written to: sled does not go on after a write that failed.
pub const LEAST_ROOM: u64 = 4 << 20;
/// Threads that write an empty projection.
const THREADS: usize = 2;
const DAMAGED: &str = "damaged";
