//! Provider events as received, and their correlation state.

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

/// A stored provider event.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Id of the event; also holds its time of receipt.
    pub id: TrackingId,
    /// Upstream of the sending provider.
    pub upstream: String,
    /// Source of the event.
    pub source: EventSource,
    /// Decoded content.
    pub content: EventContent,
    /// Position of the raw form, if known.
    pub(crate) body_position: Option<Position>,
}

/// Content of a provider event.
#[derive(Clone, Debug, PartialEq)]
pub enum EventContent {
    /// A decoded event.
    Event(Box<ProviderEvent>),
    /// An undecodable event.
    DeadLetter {
        /// Reason of the decoding failure.
        reason: String,
    },
    /// A contact hint, from a service that sent none of our messages.
    Hint(Box<ContactHint>),
}

/// Correlation state of a provider event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Correlated with a message.
    Correlated {
        /// Tracking id of the message.
        tracking_id: TrackingId,
        /// Key by which the message was found.
        correlated_by: CorrelatedBy,
    },
    /// Orphan: not correlated yet.
    Orphan,
    /// Undecodable.
    DeadLetter,
    /// Contact hint; belongs to no message.
    Hint,
    /// Only the journal's record is left: the message or the event is past retention, or it is a duplicate.
    Unreferenced,
}

impl Store {
    /// Stores an undecodable event in its raw form; lookups see it on return.
    pub async fn put_dead_letter(&self, dead_letter: DeadLetter, raw: Bytes) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::DeadLetter(Box::new(dead_letter)), raw, wish).await
    }

    /// Applies the result of decoding an event again; lookups see it on return.
    pub async fn replay_event(&self, replay: EventReplay) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::EventReplay(Box::new(replay)), Bytes::new(), wish).await
    }

    /// Returns up to `limit` orphaned events that satisfy `wanted`, newest first. Reads all orphans.
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

    /// Returns up to `limit` undecodable events that satisfy `wanted`, newest first.
    pub fn find_dead_letters(
        &self,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let ledger = self.ledger()?;
        let dead_letter =
            ledger.dead_letters().filter(|dead_letter| dead_letter.as_ref().map_or(true, &wanted));
        Ok(dead_letter.take(limit).collect::<Result<_, _>>()?)
    }

    /// Returns whether an undecodable event with the same body is stored. Reads all of them.
    pub fn has_dead_letter(&self, dead_letter: &DeadLetter) -> Result<bool, ReadError> {
        let known = |report: &StoredEvent| {
            report.upstream == dead_letter.upstream && dead_letter.has_same_body(report.id)
        };
        Ok(!self.find_dead_letters(1, known)?.is_empty())
    }

    /// Counts orphaned and undecodable events. Reads all of them.
    pub fn count_unmatched(&self) -> Result<(u64, u64), ReadError> {
        Ok(self.ledger()?.count_unmatched()?)
    }

    /// Returns all events in one of [`Store::log_segments`] that lookups can see, in order of arrival.
    pub fn events_in_segment(&self, segment: u32) -> Result<Vec<StoredEvent>, ReadError> {
        let ledger = self.ledger()?;
        let mut reports = Vec::new();
        let (frames, _) = self.read_frames(Position { segment, offset: 0 }, usize::MAX)?;
        for frame in frames {
            let Some(mut report) = StoredEvent::from_frame(&frame) else { continue };
            if let Some(event) = ledger.replayed_event(report.id)? {
                report.content = event.into();
            }
            reports.push(report);
        }
        Ok(reports)
    }

    /// Returns one event if the journal still has it.
    pub fn find_event(&self, id: TrackingId) -> Result<Option<StoredEvent>, ReadError> {
        let segments = self.journal_segments_since(id.timestamp())?;
        for segment in segments {
            let found = self.events_in_segment(segment)?.into_iter().find(|report| report.id == id);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Returns the segments that may hold events received at or after that time, oldest first.
    pub fn journal_segments_since(&self, since: Timestamp) -> Result<Vec<u32>, ReadError> {
        let segments = self.log_segments()?;
        // A segment ends at the start of its successor.
        let ended = segments.iter().skip(1).take_while(|(_, made)| *made < since).count();
        Ok(segments.into_iter().skip(ended).map(|(number, _)| number).collect())
    }

    /// Returns the raw form of an event; `None` if it is no longer stored, or damaged.
    pub fn raw_event(&self, report: &StoredEvent) -> Result<Option<Bytes>, ReadError> {
        let Some(position) = report.body_position else { return Ok(None) };
        let segment = match self.0.segment_cache.get_or_open(position.segment) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match StoredBody::load(segment, position.offset)? {
            Some(stored) => Ok(stored.read_all()?),
            None => Ok(None),
        }
    }

    /// Returns the correlation state of an event.
    pub fn event_state(&self, report: &StoredEvent) -> Result<EventState, ReadError> {
        Ok(self.ledger()?.event_state(report.id, &report.upstream, &report.content)?)
    }

    /// Returns the message with which a new event would be correlated.
    pub fn correlate(&self, event: &ProviderEvent) -> Result<Option<TrackingId>, ReadError> {
        Ok(self.ledger()?.correlate(event)?.map(|(id, ..)| id))
    }
}

impl EventContent {
    /// Returns the event, if it was decoded.
    pub fn event(&self) -> Option<&ProviderEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::DeadLetter { .. } | Self::Hint(_) => None,
        }
    }

    /// Returns the contact hint, if it is one.
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
        let (id, upstream, source, content) =
            match Record::decode(frame.kind, frame.version, &frame.payload).ok()? {
                Record::ReceivedEvent(received_event) => (
                    received_event.id(),
                    received_event.upstream,
                    received_event.source,
                    received_event.event.into(),
                ),
                Record::DeadLetter(dead_letter) => (
                    dead_letter.id(),
                    dead_letter.upstream,
                    dead_letter.source,
                    EventContent::DeadLetter { reason: dead_letter.reason },
                ),
                Record::ReceivedHint(received_hint) => (
                    received_hint.id(),
                    received_hint.source,
                    EventSource::Webhook,
                    EventContent::Hint(Box::new(received_hint.hint)),
                ),
                _ => return None,
            };
        let body_position = (frame.body_length > 0).then_some(frame.position);
        Some(Self { id, upstream, source, content, body_position })
    }
}
