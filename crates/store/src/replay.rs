//! Brings a projection up to the journal.

use crate::journal;
use crate::journal::{Damage, Frame, Place, Segment};
use crate::ledger::{Projection, ProjectionError};
use crate::open::OpenReport;
use crate::record::{Kept, Record, UnknownRecord};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The segments of a journal, ascending, each with where its records end as far as that is known.
pub type Chain = Vec<(u32, Option<u64>)>;

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The projection is damaged; an empty one may do.
    #[error("the ledger cannot be written: {0}")]
    Projection(String),
    /// It cannot be written now.
    #[error("the ledger cannot be written now: {0}")]
    Shortage(String),
    /// The journal holds a record that this version cannot read.
    #[error("{record}: segment {segment}, byte {at}")]
    Unreadable {
        /// Why.
        record: UnknownRecord,
        /// Which segment.
        segment: u32,
        /// Byte of its file where the record begins.
        at: u64,
    },
    /// The disk.
    #[error("the journal cannot be read")]
    Io(#[from] io::Error),
}

impl From<ProjectionError> for ReplayError {
    fn from(error: ProjectionError) -> Self {
        if error.is_shortage() {
            Self::Shortage(error.to_string())
        } else {
            Self::Projection(error.to_string())
        }
    }
}

/// How far a replay is, in bytes of the journal.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Read.
    pub done: u64,
    /// To read in all.
    pub total: u64,
}

/// The segments with the end that each one's successor says.
pub fn chain(journal: &Path) -> io::Result<Chain> {
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

/// The part of a chain that lies before `until`.
pub fn up_to(chain: Chain, until: Place) -> Chain {
    let before = chain.into_iter().take_while(|(number, _)| *number <= until.segment);
    before
        .map(|(number, end)| (number, if number == until.segment { Some(until.offset) } else { end }))
        .collect()
}

/// Where the records of a journal end, of which nothing is applied.
pub fn find_end(journal: &Path, chain: &Chain) -> io::Result<u64> {
    let Some((number, end)) = chain.last() else { return Ok(0) };
    match Segment::open(journal, *number, *end) {
        Ok(segment) => segment.scan(0, true, |_| Ok(()), |_| {}),
        Err(error) if is_unreadable(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Applies what the projection does not have yet; returns the end of the last segment. An empty projection is written
/// from `threads` threads, and has a position only when it is complete: one whose making was cut off is begun anew.
pub fn replay(
    journal: &Path,
    chain: &Chain,
    projection: &Projection,
    threads: usize,
    report: &mut OpenReport,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ReplayError> {
    let position = projection.position().map_err(|error| ReplayError::from(ProjectionError::from(error)))?;
    let rest = chain.iter().filter(|(number, _)| position.is_none_or(|position| *number >= position.segment));
    let mut segments = Vec::new();
    for (number, end) in rest {
        match Segment::open(journal, *number, *end) {
            Ok(segment) => segments.push((*number, Some(segment))),
            Err(error) if is_unreadable(&error) => {
                tracing::error!(
                    segment = number,
                    "a segment of the journal has no readable header and is passed over"
                );
                let lost = journal::lost_with_header(journal, *number, *end)?;
                report.damaged.extend(lost.map(|bytes| (*number, 0, bytes)));
                segments.push((*number, None));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let total = segments.iter().filter_map(|(_, segment)| segment.as_ref()).map(Segment::length).sum();
    std::thread::scope(|scope| {
        let (groups, incoming) = sync_channel(AHEAD);
        let applying = scope.spawn(move || match position {
            Some(_) => apply(projection, incoming),
            None => make(projection, incoming, threads),
        });
        let mut reading =
            Reading { groups, group: Vec::new(), damaged: Vec::new(), progress, done: 0, total };
        let end = reading.segments(segments, position);
        report.damaged.append(&mut reading.damaged);
        drop(reading);
        // sled panics on some damage.
        let applied =
            applying.join().map_err(|_| ReplayError::Projection("sled panicked on it".to_owned()))?;
        report.replayed += applied?;
        end
    })
}

/// Records, and the place up to which the journal is applied with them.
type Group = (Vec<Kept>, Place);

/// Applies groups until there are no more; returns how many records they had.
fn apply(projection: &Projection, groups: Receiver<Group>) -> Result<u64, ProjectionError> {
    let mut records = 0;
    for (group, position) in groups {
        projection.apply(&group, position)?;
        records += group.len() as u64;
        if projection.is_full() {
            projection.flush()?;
        }
    }
    projection.flush()?;
    Ok(records)
}

/// The same for an empty projection. Its batches need not be whole, so both processors write.
fn make(projection: &Projection, groups: Receiver<Group>, threads: usize) -> Result<u64, ProjectionError> {
    let mut records = 0;
    for (group, position) in groups {
        projection.apply(&group, position)?;
        records += group.len() as u64;
        if projection.is_full() {
            projection.spread(threads)?;
        }
    }
    projection.finish(threads)?;
    Ok(records)
}

/// Reads the journal while what was read before is applied.
struct Reading<'a> {
    groups: SyncSender<Group>,
    group: Vec<Kept>,
    damaged: Vec<(u32, u64, u64)>,
    progress: &'a mut dyn FnMut(Progress),
    done: u64,
    total: u64,
}

impl Reading<'_> {
    /// Returns the end of the last one.
    fn segments(
        &mut self,
        segments: Vec<(u32, Option<Segment>)>,
        position: Option<Place>,
    ) -> Result<u64, ReplayError> {
        let mut end = 0;
        for (number, segment) in segments {
            let from = position.filter(|position| position.segment == number);
            end = match &segment {
                Some(segment) => self.segment(segment, from.map_or(0, |position| position.offset))?,
                None => 0,
            };
            self.hand_over(Place { segment: number, offset: end })?;
        }
        Ok(end)
    }

    fn segment(&mut self, segment: &Segment, from: u64) -> Result<u64, ReplayError> {
        let (mut damaged, mut stopped) = (Vec::new(), None);
        let start = self.done;
        let each = |frame: Frame| {
            self.done = start + frame.at();
            self.frame(frame).map_err(|error| {
                stopped = Some(error);
                io::Error::other("stopped")
            })
        };
        let scanned = segment.scan(from, true, each, |damage| damaged.push(damage));
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        self.done = start + segment.length();
        for Damage { segment, at, bytes } in damaged {
            tracing::warn!(segment, at, bytes, "bytes of the journal are no record and are passed over");
            self.damaged.push((segment, at, bytes));
        }
        Ok(scanned?)
    }

    fn frame(&mut self, frame: Frame) -> Result<(), ReplayError> {
        if self.group.len() >= GROUP {
            self.hand_over(frame.place)?;
        }
        let (segment, at) = (frame.place.segment, frame.at());
        let record = Record::decode(frame.kind, frame.version, &frame.head)
            .map_err(|record| ReplayError::Unreadable { record, segment, at })?;
        self.group.push(Kept { record, place: frame.place, body: frame.body_length });
        Ok(())
    }

    fn hand_over(&mut self, position: Place) -> Result<(), ReplayError> {
        let group = std::mem::replace(&mut self.group, Vec::with_capacity(GROUP));
        // The other side says itself why it ended.
        let ended = |_| ReplayError::Projection("it takes nothing more".to_owned());
        self.groups.send((group, position)).map_err(ended)?;
        (self.progress)(Progress { done: self.done, total: self.total });
        Ok(())
    }
}

pub fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Records applied in one batch.
const GROUP: usize = 1000;
/// Batches that are read ahead.
const AHEAD: usize = 2;
