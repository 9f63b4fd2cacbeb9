//! Opening a store: the lock, the projection (rebuilt where it must be), the tail of the journal.

use super::commit::Committer;
use super::journal::{self, Damage, Place, Segment, Writer};
use super::lock::Lock;
use super::record::Record;
use super::sled::{Projection, ProjectionError};
use super::{Inner, Store};
use crate::clock::{Clock, Timestamp};
use crate::wakeup::Wakeup;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// The journal holds records of a newer version.
    #[error("the journal was written by a newer version of mailtrail: {0}; install that version again")]
    Newer(String),
}

/// What was found and done while opening.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Why the projection was rebuilt, if it was.
    pub rebuilt: Option<String>,
    /// Records applied from the journal.
    pub replayed: u64,
    /// Bytes of the journal that are no records: torn tails and damage.
    pub damaged: Vec<(u32, u64, u64)>,
}

pub(super) fn open(data_dir: &Path, clock: Clock, writing: bool) -> Result<(Store, OpenReport), OpenError> {
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    let (journal, ledger) = (data_dir.join("journal"), data_dir.join("ledger"));
    if writing {
        std::fs::create_dir_all(&journal).map_err(io_error(&journal))?;
        private(data_dir).and_then(|()| private(&journal)).map_err(io_error(data_dir))?;
        sync_entries(data_dir).map_err(io_error(data_dir))?;
    } else if !journal.is_dir() {
        return Err(OpenError::Missing(data_dir.to_owned()));
    }
    let lock = Lock::take(data_dir).map_err(io_error(data_dir))?;
    let lock = Arc::new(lock.ok_or_else(|| OpenError::Locked(data_dir.to_owned()))?);
    let mut report = OpenReport::default();
    let segments = chain(&journal).map_err(io_error(&journal))?;
    let mut projection = usable_projection(&ledger, &segments, clock, &mut report)?;
    let end = match replay(&journal, &segments, &projection, &mut report) {
        Err(ReplayError::Projection(reason)) => {
            drop(projection);
            projection = made_anew(&ledger, reason, clock, &mut report)?;
            replay(&journal, &segments, &projection, &mut report)
        }
        replayed => replayed,
    };
    let end = end.map_err(|error| match error {
        ReplayError::Projection(reason) => io_error(&ledger)(io::Error::other(reason)),
        ReplayError::Other(error) => error,
    })?;
    let due = Wakeup::default();
    let projection = Arc::new(projection);
    let committer = if writing {
        let last = segments.last().map_or(0, |(number, _)| *number);
        let writer = Writer::start(&journal, last, end, clock.now()).map_err(io_error(&journal))?;
        let committer = Committer::start(writer, projection.clone(), clock, due.clone(), lock.clone());
        Some(committer.map_err(io_error(data_dir))?)
    } else {
        None
    };
    let inner = Inner { journal, projection, committer, segment: Mutex::default(), due, _lock: lock };
    Ok((Store(Arc::new(inner)), report))
}

/// Only this user may read mail.
fn private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

/// Makes the directories themselves survive a power cut.
fn sync_entries(data_dir: &Path) -> io::Result<()> {
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    [data_dir, parent.unwrap_or(Path::new("."))]
        .into_iter()
        .try_for_each(|directory| File::open(directory)?.sync_all())
}

/// The segments with the end that each one's successor says.
fn chain(journal: &Path) -> io::Result<Vec<(u32, Option<u64>)>> {
    let mut numbers = journal::segments(journal)?;
    // A last one that is shorter than its header was never written to; its number is used again.
    if let Some(last) = numbers.last()
        && matches!(Segment::open(journal, *last, None), Err(error) if error.kind() == io::ErrorKind::UnexpectedEof)
    {
        numbers.pop();
    }
    let mut chain = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        let end = match numbers.get(index + 1) {
            Some(next) if *next == number + 1 => match Segment::open(journal, *next, None) {
                Ok(next) => Some(next.previous_end()),
                // A successor whose creation was cut off says nothing, and holds nothing.
                Err(error) if is_unreadable(&error) => None,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        chain.push((*number, end));
    }
    Ok(chain)
}

fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The projection if it fits the journal, else an empty one.
fn usable_projection(
    ledger: &Path,
    segments: &[(u32, Option<u64>)],
    clock: Clock,
    report: &mut OpenReport,
) -> Result<Projection, OpenError> {
    let problem = match Projection::open(ledger) {
        Ok(projection) => match projection.position() {
            Ok(None) => return Ok(projection),
            Ok(Some(place)) if segments.iter().any(|(number, _)| *number == place.segment) => {
                return Ok(projection);
            }
            Ok(Some(_)) => "it does not belong to this journal".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    made_anew(ledger, problem, clock, report)
}

/// An empty projection in the place of one that is of no use; the old one is kept aside.
fn made_anew(
    ledger: &Path,
    problem: String,
    clock: Clock,
    report: &mut OpenReport,
) -> Result<Projection, OpenError> {
    let io_error = |source| OpenError::Io { path: ledger.to_owned(), source };
    let aside = free_name(ledger, clock.now()).map_err(io_error)?;
    tracing::warn!(reason = problem, aside = %aside.display(), "the ledger is rebuilt from the journal; the old one is kept aside");
    std::fs::rename(ledger, &aside).map_err(io_error)?;
    report.rebuilt = Some(problem);
    Projection::open(ledger).map_err(|source| OpenError::Projection { path: ledger.to_owned(), source })
}

/// Where a damaged ledger is kept; two of one second, too.
fn free_name(ledger: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let mut seconds = now.seconds();
    loop {
        let name = ledger.with_extension(format!("damaged-{seconds}"));
        if !name.try_exists()? {
            return Ok(name);
        }
        seconds += 1;
    }
}

/// Why a replay stopped.
enum ReplayError {
    /// The projection is damaged; an empty one may do.
    Projection(String),
    /// Anything else.
    Other(OpenError),
}

/// Applies what the projection does not have yet; returns the end of the last segment.
fn replay(
    journal: &Path,
    segments: &[(u32, Option<u64>)],
    projection: &Projection,
    report: &mut OpenReport,
) -> Result<u64, ReplayError> {
    let io_error = |source| ReplayError::Other(OpenError::Io { path: journal.to_owned(), source });
    let position = projection.position().map_err(|error| ReplayError::Projection(error.to_string()))?;
    let mut replay = Replay { projection, group: Vec::new(), report, stopped: None };
    let mut end = 0;
    for (number, trusted) in segments {
        let from = match position {
            Some(position) if *number < position.segment => continue,
            Some(position) if *number == position.segment => position.offset,
            _ => 0,
        };
        let scanned = match Segment::open(journal, *number, *trusted) {
            Ok(segment) => replay.segment(&segment, from),
            Err(error) if is_unreadable(&error) => {
                tracing::error!(
                    segment = number,
                    "a segment of the journal has no readable header and is passed over"
                );
                Ok(0)
            }
            Err(error) => Err(error),
        };
        let flushed = scanned.and_then(|scanned| {
            end = scanned;
            replay.flush(Place { segment: *number, offset: end })
        });
        if let Some(stopped) = replay.stopped.take() {
            return Err(stopped);
        }
        flushed.map_err(io_error)?;
    }
    Ok(end)
}

struct Replay<'a> {
    projection: &'a Projection,
    group: Vec<(Record, Place)>,
    report: &'a mut OpenReport,
    /// Why it cannot go on: nothing behind that may count as applied.
    stopped: Option<ReplayError>,
}

impl Replay<'_> {
    fn segment(&mut self, segment: &Segment, from: u64) -> io::Result<u64> {
        let mut damaged = Vec::new();
        let each = |frame: journal::Frame| {
            if self.group.len() >= GROUP {
                self.flush(frame.place)?;
            }
            match Record::decode(frame.kind, frame.version, &frame.head) {
                Ok(record) => self.group.push((record, frame.place)),
                Err(error) => {
                    self.stopped = Some(ReplayError::Other(OpenError::Newer(error.to_string())));
                    return Err(io::Error::other(error));
                }
            }
            Ok(())
        };
        let end = segment.scan(from, true, each, |damage| damaged.push(damage))?;
        for Damage { place, bytes } in damaged {
            tracing::warn!(
                segment = place.segment,
                offset = place.offset,
                bytes,
                "bytes of the journal are no record and are passed over"
            );
            self.report.damaged.push((place.segment, place.offset, bytes));
        }
        Ok(end)
    }

    /// Applies the group; the journal is applied up to `position` then. sled panics on some damage.
    fn flush(&mut self, position: Place) -> io::Result<()> {
        let records = self.group.iter().map(|(record, place)| (record, *place));
        let applied = catch_unwind(AssertUnwindSafe(|| self.projection.apply(records, position)));
        let problem = match applied {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("sled panicked on it".to_owned()),
        };
        if let Some(problem) = problem {
            self.stopped = Some(ReplayError::Projection(problem.clone()));
            return Err(io::Error::other(problem));
        }
        self.report.replayed += self.group.len() as u64;
        self.group.clear();
        if self.report.replayed.is_multiple_of(PROGRESS) && self.report.replayed > 0 {
            tracing::info!(records = self.report.replayed, "replaying the journal");
        }
        Ok(())
    }
}

/// Records applied in one batch.
const GROUP: usize = 200;
/// Records between two lines of progress.
const PROGRESS: u64 = 100_000;
