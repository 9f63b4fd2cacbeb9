//! Brings a ledger up to date with the journal.

use crate::journal::{CorruptRange, Frame, Segment, list_segments, unreadable_segment_bytes};
use crate::ledger::{Ledger, LedgerError};
use crate::position::Position;
use crate::record::{JournalRecord, Record, UnknownRecord};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Segments of a journal, ascending, each with the end of its records if known.
pub type SegmentChain = Vec<(u32, Option<u64>)>;

/// Reason why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The ledger is damaged; an empty one may work.
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
    /// The ledger cannot be written now.
    #[error("the ledger cannot be written now: {0}")]
    Shortage(String),
    /// The journal holds a record that this version cannot read.
    #[error("{record}: segment {segment}, byte {offset}")]
    UnreadableRecord {
        /// Kind and version of the record.
        record: UnknownRecord,
        /// Number of the segment.
        segment: u32,
        /// File offset of the record.
        offset: u64,
    },
    /// I/O error of the journal.
    #[error("the journal cannot be read")]
    Io(#[from] io::Error),
}

impl From<LedgerError> for ReplayError {
    fn from(error: LedgerError) -> Self {
        if error.is_shortage() { Self::Shortage(error.to_string()) } else { Self::Ledger(error.to_string()) }
    }
}

/// Progress of a replay, in bytes of the journal.
#[derive(Clone, Copy, Debug)]
pub struct ReplayProgress {
    /// Bytes read so far.
    pub done: u64,
    /// Bytes to read in total.
    pub total: u64,
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

/// Lists the segments, each with the end that its successor names.
pub fn segment_chain(journal: &Path) -> io::Result<SegmentChain> {
    let mut numbers = list_segments(journal)?;
    // A last segment shorter than its header was never written to; its number is reused.
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
                // A successor left by an interrupted creation names no end and holds no record.
                Err(error) if is_corrupt(&error) => None,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        chain.push((*number, end));
    }
    Ok(chain)
}

/// Returns the part of a chain before `until`.
pub fn truncate_at(chain: SegmentChain, until: Position) -> SegmentChain {
    let before = chain.into_iter().take_while(|(number, _)| *number <= until.segment);
    before
        .map(|(number, end)| (number, if number == until.segment { Some(until.offset) } else { end }))
        .collect()
}

/// Returns the end of a journal's records without applying any.
pub fn journal_end(journal: &Path, chain: &SegmentChain) -> io::Result<u64> {
    let Some((number, end)) = chain.last() else { return Ok(0) };
    match Segment::open(journal, *number, *end) {
        Ok(segment) => segment.scan_frames(0, true, |_| Ok(()), |_| {}),
        Err(error) if is_corrupt(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Applies the records that the ledger lacks; returns the end of the last segment. An empty ledger is written
/// by `threads` threads and gets its position only when it is complete, so an interrupted build starts again.
pub fn replay_journal(
    journal: &Path,
    chain: &SegmentChain,
    ledger: &Ledger,
    threads: usize,
    report: &mut OpenReport,
    on_progress: &mut dyn FnMut(ReplayProgress),
) -> Result<u64, ReplayError> {
    let position = ledger.position().map_err(|error| ReplayError::from(LedgerError::from(error)))?;
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
                let lost = unreadable_segment_bytes(journal, *number, *end)?;
                report.corrupt_ranges.extend(lost.map(|bytes| (*number, 0, bytes)));
                segments.push((*number, None));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let total =
        segments.iter().filter_map(|(_, segment)| segment.as_ref()).map(Segment::trusted_length).sum();
    std::thread::scope(|scope| {
        let (batches, incoming) = sync_channel(READ_AHEAD_BATCHES);
        let applying = scope.spawn(move || match position {
            Some(_) => apply_batches(ledger, incoming),
            None => bulk_load(ledger, incoming, threads),
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

/// Records, and the position up to which the journal is applied with them.
type ReplayBatch = (Vec<JournalRecord>, Position);

/// Applies batches until the channel closes; returns the number of records.
fn apply_batches(ledger: &Ledger, groups: Receiver<ReplayBatch>) -> Result<u64, LedgerError> {
    let mut records = 0;
    for (group, position) in groups {
        ledger.apply_records(&group, position)?;
        records += group.len() as u64;
        if ledger.is_full() {
            ledger.flush()?;
        }
    }
    ledger.flush()?;
    Ok(records)
}

/// Applies batches to an empty ledger. Its batches need not be atomic, so both processors write.
fn bulk_load(ledger: &Ledger, groups: Receiver<ReplayBatch>, threads: usize) -> Result<u64, LedgerError> {
    let mut records = 0;
    for (group, position) in groups {
        ledger.apply_records(&group, position)?;
        records += group.len() as u64;
        if ledger.is_full() {
            ledger.bulk_flush(threads)?;
        }
    }
    ledger.finish_bulk_load(threads)?;
    Ok(records)
}

/// Reads the journal ahead while earlier batches are applied.
struct ReplayReader<'a> {
    batches: SyncSender<ReplayBatch>,
    batch: Vec<JournalRecord>,
    corrupt_ranges: Vec<(u32, u64, u64)>,
    on_progress: &'a mut dyn FnMut(ReplayProgress),
    done: u64,
    total: u64,
}

impl ReplayReader<'_> {
    /// Reads all segments; returns the end of the last one.
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
        let scanned = segment.scan_frames(from, true, each, |damage| damaged.push(damage));
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        self.done = start + segment.trusted_length();
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
        // The applying thread reports its own error.
        let ended = |_| ReplayError::Ledger("it takes nothing more".to_owned());
        self.batches.send((group, position)).map_err(ended)?;
        (self.on_progress)(ReplayProgress { done: self.done, total: self.total });
        Ok(())
    }
}

pub fn is_corrupt(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Records applied in one batch.
const REPLAY_BATCH_RECORDS: usize = 1000;
/// Maximum number of batches read ahead.
const READ_AHEAD_BATCHES: usize = 2;
