//! The providers' reports as they came, and where each of them stands.

use crate::group_commit::{CommitError, CommitOptions};
use crate::journal::{Frame, Position};
use crate::record::Record;
use crate::stored_body::StoredBody;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{ContactHint, CorrelatedBy, DeadLetter, EventReplay, EventSource, ProviderEvent};
use std::collections::BTreeMap;
use std::io;

/// A provider's report as it is kept.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// What names it; also says when it came.
    pub id: TrackingId,
    /// The upstream whose provider sent it.
    pub upstream: String,
    /// Which way it came.
    pub source: EventSource,
    /// What it says.
    pub content: EventContent,
    /// Where its raw form lies, as far as that is known.
    pub(crate) body_position: Option<Position>,
}

/// What a report says.
#[derive(Clone, Debug, PartialEq)]
pub enum EventContent {
    /// That happened.
    Event(Box<ProviderEvent>),
    /// It cannot be understood.
    DeadLetter {
        /// Why.
        reason: String,
    },
    /// Something about a contact, from somebody who sent none of our mail.
    Hint(Box<ContactHint>),
}

/// Where a report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// It was brought to a send.
    Correlated {
        /// Which.
        tracking_id: TrackingId,
        /// How it was found.
        correlated_by: CorrelatedBy,
    },
    /// It found no send and waits for one.
    Orphan,
    /// It cannot be understood.
    DeadLetter,
    /// It is about a contact, and belongs to no send.
    Hint,
    /// Nothing is known of it but the journal's record: its send was forgotten, it aged out, or it repeats another.
    Unreferenced,
}

impl Store {
    /// Keeps a report that cannot be understood, in its raw form; lookups see it on return.
    pub async fn put_dead_letter(&self, dead: DeadLetter, raw: Bytes) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::DeadLetter(Box::new(dead)), raw, wish).await
    }

    /// Applies what a report says now that it was read anew; lookups see it on return.
    pub async fn replay_event(&self, replay: EventReplay) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::EventReplay(Box::new(replay)), Bytes::new(), wish).await
    }

    /// Events that found no send, newest first, at most `limit` of those that `wanted` asks for. Reads all of them.
    pub fn find_orphans(
        &self,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let mut newest = BTreeMap::new();
        for orphan in self.ledger()?.orphans() {
            let orphan = orphan?;
            if wanted(&orphan) {
                newest.insert(orphan.id, orphan);
            }
            if newest.len() > limit {
                newest.pop_first();
            }
        }
        Ok(newest.into_values().rev().collect())
    }

    /// Reports that cannot be understood, newest first, at most `limit` of those that `wanted` asks for.
    pub fn find_dead_letters(
        &self,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let projection = self.ledger()?;
        let dead = projection.dead_letters().filter(|dead| dead.as_ref().map_or(true, &wanted));
        Ok(dead.take(limit).collect::<Result<_, _>>()?)
    }

    /// Whether a report of the same body is among those that cannot be understood. Reads all of them.
    pub fn has_dead_letter(&self, dead: &DeadLetter) -> Result<bool, ReadError> {
        let known = |report: &StoredEvent| report.upstream == dead.upstream && dead.has_same_body(report.id);
        Ok(!self.find_dead_letters(1, known)?.is_empty())
    }

    /// How many events found no send, and how many reports cannot be understood. Reads all of them.
    pub fn count_unmatched(&self) -> Result<(u64, u64), ReadError> {
        Ok(self.ledger()?.count_unmatched()?)
    }

    /// All reports in one of [`Store::log_segments`] that lookups can see, in the order of their arrival.
    pub fn events_in_segment(&self, segment: u32) -> Result<Vec<StoredEvent>, ReadError> {
        let projection = self.ledger()?;
        let mut reports = Vec::new();
        let (frames, _) = self.read_frames(Position { segment, offset: 0 }, usize::MAX)?;
        for frame in frames {
            let Some(mut report) = StoredEvent::from_frame(&frame) else { continue };
            if let Some(event) = projection.replayed_event(report.id)? {
                report.content = event.into();
            }
            reports.push(report);
        }
        Ok(reports)
    }

    /// One report, if the journal still has it.
    pub fn find_event(&self, id: TrackingId) -> Result<Option<StoredEvent>, ReadError> {
        let segments = self.segments_since(id.timestamp())?;
        for segment in segments {
            let found = self.events_in_segment(segment)?.into_iter().find(|report| report.id == id);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The segments in which reports may lie that came then or later, oldest first.
    pub fn segments_since(&self, since: Timestamp) -> Result<Vec<u32>, ReadError> {
        let segments = self.log_segments()?;
        // A segment ends where its successor begins.
        let ended = segments.iter().skip(1).take_while(|(_, made)| *made < since).count();
        Ok(segments.into_iter().skip(ended).map(|(number, _)| number).collect())
    }

    /// The raw form of a report; `None` when it is no longer kept, or damaged.
    pub fn raw_event(&self, report: &StoredEvent) -> Result<Option<Bytes>, ReadError> {
        let Some(place) = report.body_position else { return Ok(None) };
        let segment = match self.0.segment_cache.get_or_open(place.segment) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match StoredBody::load(segment, place.offset)? {
            Some(stored) => Ok(stored.read_all()?),
            None => Ok(None),
        }
    }

    /// Where a report stands.
    pub fn event_state(&self, report: &StoredEvent) -> Result<EventState, ReadError> {
        Ok(self.ledger()?.event_state(report.id, &report.upstream, &report.content)?)
    }

    /// The send that an event would be brought to, were it new.
    pub fn correlate(&self, event: &ProviderEvent) -> Result<Option<TrackingId>, ReadError> {
        Ok(self.ledger()?.correlate(event)?.map(|(id, ..)| id))
    }
}

impl EventContent {
    /// What happened, where that is understood.
    pub fn event(&self) -> Option<&ProviderEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::DeadLetter { .. } | Self::Hint(_) => None,
        }
    }

    /// What it says about a contact, where it is no event.
    pub fn hint(&self) -> Option<&ContactHint> {
        match self {
            Self::Hint(hint) => Some(hint),
            Self::Event(_) | Self::DeadLetter { .. } => None,
        }
    }
}

impl From<ProviderEvent> for EventContent {
    fn from(event: ProviderEvent) -> Self {
        Self::Event(Box::new(event))
    }
}

impl StoredEvent {
    fn from_frame(frame: &Frame) -> Option<Self> {
        let (id, upstream, source, content) = match Record::decode(frame.kind, frame.version, &frame.payload)
            .ok()?
        {
            Record::ReceivedEvent(notice) => {
                (notice.id(), notice.upstream, notice.source, notice.event.into())
            }
            Record::DeadLetter(dead) => {
                (dead.id(), dead.upstream, dead.source, EventContent::DeadLetter { reason: dead.reason })
            }
            Record::ReceivedHint(hinted) => {
                (hinted.id(), hinted.source, EventSource::Webhook, EventContent::Hint(Box::new(hinted.hint)))
            }
            _ => return None,
        };
        let body_position = (frame.body_length > 0).then_some(frame.position);
        Some(Self { id, upstream, source, content, body_position })
    }
}
