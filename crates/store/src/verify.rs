//! Reads the whole journal and compares the ledger with it. Changes nothing.
//!
//! Everything up to the ledger's position was acknowledged, so every byte up to there must belong to a whole
//! record. A tail that was torn by a crash lies after that position.

use crate::check_report::{CheckReport, Inconsistency};
use crate::inner::StoreInner;
use crate::journal::{Frame, Segment, unreadable_segment_bytes};
use crate::ledger::Ledger;
use crate::position::Position;
use crate::read_error::ReadError;
use crate::record::Record;
use crate::replay::{ReplayProgress, is_corrupt, segment_chain, truncate_at};
use crate::retention::Retention;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Result of verifying a store.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Segments of the journal.
    pub segments: u64,
    /// Bytes of the journal.
    pub bytes: u64,
    /// Whole records of the journal.
    pub records: u64,
    /// Messages in the ledger.
    pub messages: u64,
    /// Queued messages among them.
    pub queued: u64,
    /// Damaged regions of the journal.
    pub corrupt_regions: Vec<CorruptRegion>,
    /// Contradictions between ledger and journal, or between two rows of the ledger.
    pub inconsistencies: Vec<String>,
}

impl VerifyReport {
    /// Returns whether the store has no faults.
    pub fn is_intact(&self) -> bool {
        self.corrupt_regions.is_empty() && self.inconsistencies.is_empty()
    }
}

/// A damaged region of the journal.
#[derive(Clone, Debug)]
pub struct CorruptRegion {
    /// Number of the segment.
    pub segment: u32,
    /// File offset of the damage.
    pub file_offset: u64,
    /// Bytes up to the next whole record or the segment's end; 0 if unknown.
    pub bytes: u64,
    /// Description of the damage.
    pub description: String,
    /// Messages in the ledger that were accepted, with their body, by a record in this region.
    pub lost_messages: u64,
    /// Queued messages among them.
    pub lost_queued: u64,
    /// The first of them, at most [`Self::MAX_LISTED_IDS`].
    pub tracking_ids: Vec<TrackingId>,
    /// Offsets of the records that may have been in the region.
    offsets: Range<u64>,
}

impl CorruptRegion {
    /// Maximum number of listed messages.
    pub const MAX_LISTED_IDS: usize = 100;

    fn new(
        segment: u32,
        (file_offset, bytes): (u64, u64),
        what: impl Into<String>,
        offsets: Range<u64>,
    ) -> Self {
        Self {
            segment,
            file_offset,
            bytes,
            description: what.into(),
            lost_messages: 0,
            lost_queued: 0,
            tracking_ids: Vec::new(),
            offsets,
        }
    }

    /// Creates a region that spans a whole segment.
    fn whole_segment(segment: u32, bytes: u64, what: impl Into<String>) -> Self {
        Self::new(segment, (0, bytes), what, 0..u64::MAX)
    }

    fn contains(&self, place: Position) -> bool {
        self.segment == place.segment && self.offsets.contains(&place.offset)
    }

    fn add_lost_message(&mut self, id: TrackingId, waits: bool) {
        self.lost_messages += 1;
        self.lost_queued += u64::from(waits);
        if self.tracking_ids.len() < Self::MAX_LISTED_IDS {
            self.tracking_ids.push(id);
        }
    }
}

impl StoreInner {
    /// Reads and checks all committed records and compares the ledger with them. With `retention`, also
    /// checks that the ledger holds everything it must hold at `now`. An error from `progress` stops the run.
    /// Blocks. Traffic continues; maintenance waits.
    pub(crate) fn verify(
        &self,
        retention: Option<&Retention>,
        now: Timestamp,
        on_progress: &mut dyn FnMut(ReplayProgress) -> io::Result<()>,
    ) -> Result<VerifyReport, ReadError> {
        let _upkeep = self.lock_maintenance();
        let ledger = self.ledger()?;
        let position = ledger.position()?.unwrap_or_default();
        let horizon = retention.map(|retention| retention.ledger_horizon(now));
        let state = ReplayProgress { done: 0, total: 0 };
        let (report, counts) = (VerifyReport::default(), MessageCounts::default());
        let mut reading = VerifyReader { ledger: &ledger, horizon, on_progress, state, report, counts };
        reading.verify_journal(&self.journal_dir, position)?;
        reading.verify_ledger(position)?;
        Ok(reading.report)
    }
}

struct VerifyReader<'a> {
    ledger: &'a Ledger,
    /// Messages accepted from then on are within retention.
    horizon: Option<Timestamp>,
    on_progress: &'a mut dyn FnMut(ReplayProgress) -> io::Result<()>,
    state: ReplayProgress,
    report: VerifyReport,
    counts: MessageCounts,
}

/// Comparison of the messages in journal and ledger.
#[derive(Default)]
struct MessageCounts {
    /// Number of messages in both.
    matched: u64,
    /// Messages in the journal only, although they are within retention.
    missing_in_ledger: u64,
    /// Queued messages without a body in the journal.
    without_body: u64,
}

impl VerifyReader<'_> {
    fn verify_journal(&mut self, journal: &Path, position: Position) -> Result<(), ReadError> {
        let chain = truncate_at(segment_chain(journal)?, position);
        let mut segments = Vec::with_capacity(chain.len());
        for (number, end) in chain {
            segments.push((number, end, Segment::open(journal, number, end)));
        }
        let lengths =
            segments.iter().filter_map(|(.., segment)| segment.as_ref().ok().map(Segment::trusted_length));
        self.state.total = lengths.sum();
        for (index, (number, end, segment)) in segments.iter().enumerate() {
            self.report.segments += 1;
            match segment {
                Ok(segment) => self.verify_segment(*number, segment)?,
                Err(error) if is_corrupt(error) => {
                    let lost = unreadable_segment_bytes(journal, *number, *end)?;
                    let hole = lost.map(|bytes| {
                        CorruptRegion::whole_segment(*number, bytes, "the segment's header is damaged")
                    });
                    self.report.corrupt_regions.extend(hole);
                }
                Err(error) => {
                    let what = format!("the segment cannot be read: {error}");
                    self.report.corrupt_regions.push(CorruptRegion::whole_segment(*number, 0, what));
                }
            }
            // Maintenance removes a segment only after a rewritten one, which has its end in its own header.
            let next = segments.get(index + 1).map(|(next, ..)| *next);
            let is_original = segment.as_ref().is_ok_and(|segment| segment.rewritten_at().is_none());
            if next != Some(number + 1) && *number < position.segment && (next.is_none() || is_original) {
                self.report.corrupt_regions.push(CorruptRegion::whole_segment(
                    number + 1,
                    0,
                    "the segment is missing",
                ));
            }
        }
        Ok(())
    }

    fn verify_segment(&mut self, number: u32, segment: &Segment) -> Result<(), ReadError> {
        let (mut gaps, mut stopped) = (Vec::new(), None);
        // For each file offset at which a record does not follow the previous one directly: the logical
        // offset after the previous record, and its own.
        let (mut offset_jumps, mut after) = (HashMap::new(), (0, 0));
        let start = self.state.done;
        let each = |frame: Frame| {
            if frame.file_offset() != after.0 {
                offset_jumps.insert(frame.file_offset(), after.1..frame.position.offset);
            }
            after = frame.end_offsets();
            self.verify_frame(&frame, start).map_err(|error| {
                stopped = Some(error);
                io::Error::other("stopped")
            })
        };
        let scanned = segment.scan_frames(0, true, each, |damage| gaps.push(damage));
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        for gap in gaps {
            let offsets = offset_jumps.remove(&(gap.file_offset + gap.bytes)).unwrap_or(after.1..u64::MAX);
            self.report.corrupt_regions.push(CorruptRegion::new(
                number,
                (gap.file_offset, gap.bytes),
                "bytes that are no whole record",
                offsets,
            ));
        }
        if let Err(error) = scanned {
            let (at, offset) = after;
            let what = format!("bytes that cannot be read: {error}");
            let bytes = segment.trusted_length().saturating_sub(at);
            self.report.corrupt_regions.push(CorruptRegion::new(number, (at, bytes), what, offset..u64::MAX));
        }
        self.report.bytes += segment.trusted_length();
        self.state.done = start + segment.trusted_length();
        Ok((self.on_progress)(self.state)?)
    }

    fn verify_frame(&mut self, frame: &Frame, start: u64) -> Result<(), ReadError> {
        let done = start + frame.file_offset();
        if done >= self.state.done + PROGRESS_INTERVAL_BYTES {
            self.state.done = done;
            (self.on_progress)(self.state)?;
        }
        self.report.records += 1;
        match Record::decode(frame.kind, frame.version, &frame.payload) {
            Ok(Record::AcceptedMessage(accepted)) => self.check_accepted(accepted.message.id, frame),
            Ok(_) => Ok(()),
            Err(error) => {
                let Position { segment, offset } = frame.position;
                self.report.inconsistencies.push(format!("segment {segment}, offset {offset}: {error}"));
                Ok(())
            }
        }
    }

    fn check_accepted(&mut self, id: TrackingId, frame: &Frame) -> Result<(), ReadError> {
        match self.ledger.load_message(id)? {
            Some((_, row)) if row.position == frame.position => {
                self.counts.matched += 1;
                let lacks_body = frame.body_length == 0 && row.body_length > 0;
                self.counts.without_body += u64::from(lacks_body && row.queue_entry.is_some());
            }
            None if self.horizon.is_some_and(|horizon| id.timestamp() >= horizon) => {
                self.counts.missing_in_ledger += 1
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Checks the ledger's rows, and compares them with the journal.
    fn verify_ledger(&mut self, position: Position) -> Result<(), ReadError> {
        let (mut sends, mut lost) = (0, 0);
        let holes = &mut self.report.corrupt_regions;
        self.ledger.for_each_message(|id, place, waits| {
            if place < position {
                sends += 1;
                if let Some(hole) = holes.iter_mut().find(|hole| hole.contains(place)) {
                    hole.add_lost_message(id, waits);
                    lost += 1;
                }
            }
        })?;
        let (strays, queued) = self.find_inconsistencies()?;
        (self.report.messages, self.report.queued) = (sends, queued);
        let MessageCounts { matched, missing_in_ledger, without_body } = self.counts;
        let absent = sends.saturating_sub(matched + lost);
        let count = |number: u64, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let strays = strays.iter().map(|stray| Some(describe_inconsistency(stray)));
        let counted = [
            count(absent, "sends of the ledger are not where it says in the journal"),
            count(missing_in_ledger, "sends of the journal that [retention] keeps are not in the ledger"),
            count(without_body, "sends that wait have no message in the journal any more"),
        ];
        self.report.inconsistencies.extend(counted.into_iter().chain(strays).flatten());
        Ok(())
    }

    /// Counts queued messages and finds rows that contradict each other in two reads: rows that are changing
    /// may contradict each other once.
    fn find_inconsistencies(&self) -> Result<(Vec<Inconsistency>, u64), ReadError> {
        let check = || {
            let mut audit = CheckReport::default();
            self.ledger.check_queue(Timestamp::default(), &mut audit)?;
            self.ledger.check_messages(None, usize::MAX, &mut audit)?;
            Ok::<_, ReadError>(audit)
        };
        let CheckReport { inconsistencies: mut strays, queued, .. } = check()?;
        if !strays.is_empty() {
            let again = check()?.inconsistencies;
            strays.retain(|stray| again.contains(stray));
        }
        Ok((strays, queued))
    }
}

fn describe_inconsistency(stray: &Inconsistency) -> String {
    match stray {
        Inconsistency::MissingFromQueue(id) => format!("send {id} is open and not in the queue"),
        Inconsistency::UnexpectedInQueue(id) => {
            format!("send {id} is in the queue where its row does not say so")
        }
        Inconsistency::Unreadable(id) => format!("the row of send {id} cannot be read"),
    }
}

/// Bytes read between two progress reports.
const PROGRESS_INTERVAL_BYTES: u64 = 4 << 20;
