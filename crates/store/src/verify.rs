//! Reads all of the journal and compares the ledger with it. Nothing is changed.
//!
//! Everything up to the ledger's position was promised to somebody, so every byte up to there has to be a whole record;
//! what a crash tore off lies behind it.

use crate::journal::{Frame, Place, Segment, lost_with_header};
use crate::ledger::Projection;
use crate::record::Record;
use crate::replay::{Progress, chain, is_unreadable, up_to};
use crate::retention::Retention;
use crate::{Audit, ReadError, Store, Stray};
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::PoisonError;

/// What a store was found to be.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Segments of the journal.
    pub segments: u64,
    /// Bytes of the journal.
    pub bytes: u64,
    /// Whole records in it.
    pub records: u64,
    /// Sends in the ledger.
    pub sends: u64,
    /// Those of them that wait.
    pub queued: u64,
    /// Damaged places of the journal.
    pub holes: Vec<Hole>,
    /// Where the ledger and the journal, or two rows of the ledger, say different things.
    pub contradictions: Vec<String>,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.holes.is_empty() && self.contradictions.is_empty()
    }
}

/// A damaged place of the journal.
#[derive(Clone, Debug)]
pub struct Hole {
    /// Which segment.
    pub segment: u32,
    /// Byte of its file where the damage begins.
    pub at: u64,
    /// Bytes up to the next whole record or the segment's end; 0 where that is not known.
    pub bytes: u64,
    /// What is wrong with them.
    pub what: String,
    /// Sends that the ledger knows and whose acceptance and message lay there.
    pub sends: u64,
    /// Those of them that still wait.
    pub waiting: u64,
    /// The first of them, at most [`Hole::NAMED`].
    pub ids: Vec<TrackingId>,
    /// Offsets of the records that may have been there.
    offsets: Range<u64>,
}

impl Hole {
    /// Sends that are named.
    pub const NAMED: usize = 100;

    fn new(segment: u32, (at, bytes): (u64, u64), what: impl Into<String>, offsets: Range<u64>) -> Self {
        Self { segment, at, bytes, what: what.into(), sends: 0, waiting: 0, ids: Vec::new(), offsets }
    }

    /// All of a segment.
    fn all(segment: u32, bytes: u64, what: impl Into<String>) -> Self {
        Self::new(segment, (0, bytes), what, 0..u64::MAX)
    }

    fn held(&self, place: Place) -> bool {
        self.segment == place.segment && self.offsets.contains(&place.offset)
    }

    fn lost(&mut self, id: TrackingId, waits: bool) {
        self.sends += 1;
        self.waiting += u64::from(waits);
        if self.ids.len() < Self::NAMED {
            self.ids.push(id);
        }
    }
}

impl Store {
    /// Reads and checks everything that was kept so far, and compares the ledger with it; with `retention` also whether
    /// it knows all that it should know at `now`. `progress` ends it by an error. Blocks. Traffic goes on, upkeep waits.
    pub fn verify(
        &self,
        retention: Option<&Retention>,
        now: Timestamp,
        progress: &mut dyn FnMut(Progress) -> io::Result<()>,
    ) -> Result<Verified, ReadError> {
        let _upkeep = self.0.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let projection = self.projection()?;
        let position = projection.position()?.unwrap_or_default();
        let horizon = retention.map(|retention| retention.ledger_horizon(now));
        let step = Progress { done: 0, total: 0 };
        let (found, counts) = (Verified::default(), Counts::default());
        let mut reading = Reading { projection: &projection, horizon, progress, step, found, counts };
        reading.journal(&self.0.journal, position)?;
        reading.ledger(position)?;
        Ok(reading.found)
    }
}

struct Reading<'a> {
    projection: &'a Projection,
    /// Sends accepted from then on are not yet forgotten.
    horizon: Option<Timestamp>,
    progress: &'a mut dyn FnMut(Progress) -> io::Result<()>,
    step: Progress,
    found: Verified,
    counts: Counts,
}

/// What the journal says of sends, and the ledger of the same.
#[derive(Default)]
struct Counts {
    /// In both.
    matched: u64,
    /// In the journal alone, although retention keeps them.
    unknown: u64,
    /// Waiting, and the journal has no message.
    bodiless: u64,
}

impl Reading<'_> {
    fn journal(&mut self, journal: &Path, position: Place) -> Result<(), ReadError> {
        let chain = up_to(chain(journal)?, position);
        let mut segments = Vec::with_capacity(chain.len());
        for (number, end) in chain {
            segments.push((number, end, Segment::open(journal, number, end)));
        }
        let lengths = segments.iter().filter_map(|(.., segment)| segment.as_ref().ok().map(Segment::length));
        self.step.total = lengths.sum();
        for (index, (number, end, segment)) in segments.iter().enumerate() {
            self.found.segments += 1;
            match segment {
                Ok(segment) => self.segment(*number, segment)?,
                Err(error) if is_unreadable(error) => {
                    let lost = lost_with_header(journal, *number, *end)?;
                    let hole = lost.map(|bytes| Hole::all(*number, bytes, "the segment's header is damaged"));
                    self.found.holes.extend(hole);
                }
                Err(error) => {
                    let what = format!("the segment cannot be read: {error}");
                    self.found.holes.push(Hole::all(*number, 0, what));
                }
            }
            // Upkeep takes a segment away only behind one that was rewritten, which needs nobody to say where it ends.
            let next = segments.get(index + 1).map(|(next, ..)| *next);
            let is_original = segment.as_ref().is_ok_and(|segment| segment.rewritten().is_none());
            if next != Some(number + 1) && *number < position.segment && (next.is_none() || is_original) {
                self.found.holes.push(Hole::all(number + 1, 0, "the segment is missing"));
            }
        }
        Ok(())
    }

    fn segment(&mut self, number: u32, segment: &Segment) -> Result<(), ReadError> {
        let (mut gaps, mut stopped) = (Vec::new(), None);
        // For each byte of the file at which a record follows none: the offset behind the one before, and its own.
        let (mut jumps, mut behind) = (HashMap::new(), (0, 0));
        let start = self.step.done;
        let each = |frame: Frame| {
            if frame.at() != behind.0 {
                jumps.insert(frame.at(), behind.1..frame.place.offset);
            }
            behind = frame.end();
            self.frame(&frame, start).map_err(|error| {
                stopped = Some(error);
                io::Error::other("stopped")
            })
        };
        let scanned = segment.scan(0, true, each, |damage| gaps.push(damage));
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        for gap in gaps {
            let offsets = jumps.remove(&(gap.at + gap.bytes)).unwrap_or(behind.1..u64::MAX);
            self.found.holes.push(Hole::new(
                number,
                (gap.at, gap.bytes),
                "bytes that are no whole record",
                offsets,
            ));
        }
        if let Err(error) = scanned {
            let (at, offset) = behind;
            let what = format!("bytes that cannot be read: {error}");
            let bytes = segment.length().saturating_sub(at);
            self.found.holes.push(Hole::new(number, (at, bytes), what, offset..u64::MAX));
        }
        self.found.bytes += segment.length();
        self.step.done = start + segment.length();
        Ok((self.progress)(self.step)?)
    }

    fn frame(&mut self, frame: &Frame, start: u64) -> Result<(), ReadError> {
        let done = start + frame.at();
        if done >= self.step.done + BETWEEN_STEPS {
            self.step.done = done;
            (self.progress)(self.step)?;
        }
        self.found.records += 1;
        match Record::decode(frame.kind, frame.version, &frame.head) {
            Ok(Record::Accepted(accepted)) => self.accepted(accepted.send.id, frame),
            Ok(_) => Ok(()),
            Err(error) => {
                let Place { segment, offset } = frame.place;
                self.found.contradictions.push(format!("segment {segment}, offset {offset}: {error}"));
                Ok(())
            }
        }
    }

    fn accepted(&mut self, id: TrackingId, frame: &Frame) -> Result<(), ReadError> {
        match self.projection.send(id)? {
            Some((_, row)) if row.place == frame.place => {
                self.counts.matched += 1;
                let lacks_body = frame.body_length == 0 && row.body > 0;
                self.counts.bodiless += u64::from(lacks_body && row.queued.is_some());
            }
            None if self.horizon.is_some_and(|horizon| id.timestamp() >= horizon) => self.counts.unknown += 1,
            Some(_) | None => {}
        }
        Ok(())
    }

    /// What the ledger says by itself, and what of it the journal lacks.
    fn ledger(&mut self, position: Place) -> Result<(), ReadError> {
        let (mut sends, mut lost) = (0, 0);
        let holes = &mut self.found.holes;
        self.projection.places(|id, place, waits| {
            if place < position {
                sends += 1;
                if let Some(hole) = holes.iter_mut().find(|hole| hole.held(place)) {
                    hole.lost(id, waits);
                    lost += 1;
                }
            }
        })?;
        let (strays, queued) = self.strays()?;
        (self.found.sends, self.found.queued) = (sends, queued);
        let Counts { matched, unknown, bodiless } = self.counts;
        let absent = sends.saturating_sub(matched + lost);
        let count = |number: u64, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let strays = strays.iter().map(|stray| Some(described(stray)));
        let counted = [
            count(absent, "sends of the ledger are not where it says in the journal"),
            count(unknown, "sends of the journal that [retention] keeps are not in the ledger"),
            count(bodiless, "sends that wait have no message in the journal any more"),
        ];
        self.found.contradictions.extend(counted.into_iter().chain(strays).flatten());
        Ok(())
    }

    /// Rows that contradict each other twice: what moves may look so once. And how many sends wait.
    fn strays(&self) -> Result<(Vec<Stray>, u64), ReadError> {
        let look = || {
            let mut audit = Audit::default();
            self.projection.audit_queue(Timestamp::default(), &mut audit)?;
            self.projection.audit_sends(None, usize::MAX, &mut audit)?;
            Ok::<_, ReadError>(audit)
        };
        let Audit { mut strays, queued, .. } = look()?;
        if !strays.is_empty() {
            let again = look()?.strays;
            strays.retain(|stray| again.contains(stray));
        }
        Ok((strays, queued))
    }
}

fn described(stray: &Stray) -> String {
    match stray {
        Stray::Forgotten(id) => format!("send {id} is open and not in the queue"),
        Stray::InTheQueue(id) => format!("send {id} is in the queue where its row does not say so"),
        Stray::Unreadable(id) => format!("the row of send {id} cannot be read"),
    }
}

/// Bytes read between two words about how far it is.
const BETWEEN_STEPS: u64 = 4 << 20;
