//! Brings a projection up to the journal.

use crate::journal;
use crate::journal::{CorruptRange, Frame, Position, Segment};
use crate::ledger::{Ledger, LedgerError};
use crate::open::OpenReport;
use crate::record::{JournalRecord, Record, UnknownRecord};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The segments of a journal, ascending, each with where its records end as far as that is known.
pub type SegmentChain = Vec<(u32, Option<u64>)>;

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The projection is damaged; an empty one may do.
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
    /// It cannot be written now.
    #[error("the ledger cannot be written now: {0}")]
    Shortage(String),
    /// The journal holds a record that this version cannot read.
    #[error("{record}: segment {segment}, byte {offset}")]
    UnreadableRecord {
        /// Why.
        record: UnknownRecord,
        /// Which segment.
        segment: u32,
        /// Byte of its file where the record begins.
        offset: u64,
    },
    /// The disk.
    #[error("the journal cannot be read")]
    Io(#[from] io::Error),
}

impl From<LedgerError> for ReplayError {
    fn from(error: LedgerError) -> Self {
        if error.is_shortage() { Self::Shortage(error.to_string()) } else { Self::Ledger(error.to_string()) }
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
pub fn segment_chain(journal: &Path) -> io::Result<SegmentChain> {
    let mut numbers = journal::list_segments(journal)?;
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
                Err(error) if is_corrupt(&error) => None,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        chain.push((*number, end));
    }
    Ok(chain)
}

/// The part of a chain that lies before `until`.
pub fn truncate_at(chain: SegmentChain, until: Position) -> SegmentChain {
    let before = chain.into_iter().take_while(|(number, _)| *number <= until.segment);
    before
        .map(|(number, end)| (number, if number == until.segment { Some(until.offset) } else { end }))
        .collect()
}

/// Where the records of a journal end, of which nothing is applied.
pub fn journal_end(journal: &Path, chain: &SegmentChain) -> io::Result<u64> {
    let Some((number, end)) = chain.last() else { return Ok(0) };
    match Segment::open(journal, *number, *end) {
        Ok(segment) => segment.scan(0, true, |_| Ok(()), |_| {}),
        Err(error) if is_corrupt(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Applies what the projection does not have yet; returns the end of the last segment. An empty projection is written
/// from `threads` threads, and has a position only when it is complete: one whose making was cut off is begun anew.
pub fn replay_journal(
    journal: &Path,
    chain: &SegmentChain,
    projection: &Ledger,
    threads: usize,
    report: &mut OpenReport,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<u64, ReplayError> {
    let position = projection.position().map_err(|error| ReplayError::from(LedgerError::from(error)))?;
    let rest = chain.iter().filter(|(number, _)| position.is_none_or(|position| *number >= position.segment));
    let mut segments = Vec::new();
    for (number, end) in rest {
        match Segment::open(journal, *number, *end) {
            Ok(segment) => segments.push((*number, Some(segment))),
            Err(error) if is_corrupt(&error) => {
                tracing::error!(
                    segment = number,
                    "a segment of the journal has no readable header and is passed over"
                );
                let lost = journal::unreadable_segment_bytes(journal, *number, *end)?;
                report.corrupt_ranges.extend(lost.map(|bytes| (*number, 0, bytes)));
                segments.push((*number, None));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let total = segments.iter().filter_map(|(_, segment)| segment.as_ref()).map(Segment::length).sum();
    std::thread::scope(|scope| {
        let (batches, incoming) = sync_channel(READ_AHEAD_BATCHES);
        let applying = scope.spawn(move || match position {
            Some(_) => apply_batches(projection, incoming),
            None => bulk_load(projection, incoming, threads),
        });
        let mut reading = ReplayReader {
            batches,
            batch: Vec::new(),
            corrupt_ranges: Vec::new(),
            on_progress,
            done: 0,
            total,
        };
        let end = reading.read_segments(segments, position);
        report.corrupt_ranges.append(&mut reading.corrupt_ranges);
        drop(reading);
        // sled panics on some damage.
        let applied = applying.join().map_err(|_| ReplayError::Ledger("sled panicked on it".to_owned()))?;
        report.replayed_records += applied?;
        end
    })
}

/// Records, and the place up to which the journal is applied with them.
type ReplayBatch = (Vec<JournalRecord>, Position);

/// Applies groups until there are no more; returns how many records they had.
fn apply_batches(projection: &Ledger, groups: Receiver<ReplayBatch>) -> Result<u64, LedgerError> {
    let mut records = 0;
    for (group, position) in groups {
        projection.apply_records(&group, position)?;
        records += group.len() as u64;
        if projection.is_full() {
            projection.flush()?;
        }
    }
    projection.flush()?;
    Ok(records)
}

/// The same for an empty projection. Its batches need not be whole, so both processors write.
fn bulk_load(projection: &Ledger, groups: Receiver<ReplayBatch>, threads: usize) -> Result<u64, LedgerError> {
    let mut records = 0;
    for (group, position) in groups {
        projection.apply_records(&group, position)?;
        records += group.len() as u64;
        if projection.is_full() {
            projection.bulk_flush(threads)?;
        }
    }
    projection.finish_bulk_load(threads)?;
    Ok(records)
}

/// Reads the journal while what was read before is applied.
struct ReplayReader<'a> {
    batches: SyncSender<ReplayBatch>,
    batch: Vec<JournalRecord>,
    corrupt_ranges: Vec<(u32, u64, u64)>,
    on_progress: &'a mut dyn FnMut(Progress),
    done: u64,
    total: u64,
}

impl ReplayReader<'_> {
    /// Returns the end of the last one.
    fn read_segments(
        &mut self,
        segments: Vec<(u32, Option<Segment>)>,
        position: Option<Position>,
    ) -> Result<u64, ReplayError> {
        let mut end = 0;
        for (number, segment) in segments {
            let from = position.filter(|position| position.segment == number);
            end = match &segment {
                Some(segment) => self.read_segment(segment, from.map_or(0, |position| position.offset))?,
                None => 0,
            };
            self.send_batch(Position { segment: number, offset: end })?;
        }
        Ok(end)
    }

    fn read_segment(&mut self, segment: &Segment, from: u64) -> Result<u64, ReplayError> {
        let (mut damaged, mut stopped) = (Vec::new(), None);
        let start = self.done;
        let each = |frame: Frame| {
            self.done = start + frame.file_offset();
            self.read_frame(frame).map_err(|error| {
                stopped = Some(error);
                io::Error::other("stopped")
            })
        };
        let scanned = segment.scan(from, true, each, |damage| damaged.push(damage));
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        self.done = start + segment.length();
        for CorruptRange { segment, file_offset, bytes } in damaged {
            tracing::warn!(
                segment,
                file_offset,
                bytes,
                "bytes of the journal are no record and are passed over"
            );
            self.corrupt_ranges.push((segment, file_offset, bytes));
        }
        Ok(scanned?)
    }

    fn read_frame(&mut self, frame: Frame) -> Result<(), ReplayError> {
        if self.batch.len() >= REPLAY_BATCH_RECORDS {
            self.send_batch(frame.position)?;
        }
        let (segment, offset) = (frame.position.segment, frame.file_offset());
        let record = Record::decode(frame.kind, frame.version, &frame.payload)
            .map_err(|record| ReplayError::UnreadableRecord { record, segment, offset })?;
        self.batch.push(JournalRecord { record, position: frame.position, body_length: frame.body_length });
        Ok(())
    }

    fn send_batch(&mut self, position: Position) -> Result<(), ReplayError> {
        let group = std::mem::replace(&mut self.batch, Vec::with_capacity(REPLAY_BATCH_RECORDS));
        // The other side says itself why it ended.
        let ended = |_| ReplayError::Ledger("it takes nothing more".to_owned());
        self.batches.send((group, position)).map_err(ended)?;
        (self.on_progress)(Progress { done: self.done, total: self.total });
        Ok(())
    }
}

pub fn is_corrupt(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Records applied in one batch.
const REPLAY_BATCH_RECORDS: usize = 1000;
/// Batches that are read ahead.
const READ_AHEAD_BATCHES: usize = 2;
