//! Provider events and contact hints: storing, deduplication, replay and lookups.

use crate::commit_command::{CommitError, CommitOptions};
use crate::position::Position;
use crate::read_error::ReadError;
use crate::record::Record;
use crate::store::Store;
use crate::stored_event::{EventState, StoredEvent};
use bytes::Bytes;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{DeadLetter, EventReplay, PollCursor, ProviderEvent, ReceivedEvent, ReceivedHint};
use std::collections::BTreeMap;

impl Store {
    /// Stores a provider event in its raw form. On return it is correlated with its message.
    pub async fn put_event(&self, received_event: ReceivedEvent, raw: Bytes) -> Result<(), CommitError> {
        self.0
            .commit(Record::ReceivedEvent(Box::new(received_event)), raw, CommitOptions::URGENT_APPLIED)
            .await
    }

    /// Stores a contact hint in its raw form; lookups see it on return. A duplicate hint changes nothing.
    pub async fn put_hint(&self, received_hint: ReceivedHint, raw: Bytes) -> Result<(), CommitError> {
        self.0.commit(Record::ReceivedHint(Box::new(received_hint)), raw, CommitOptions::URGENT_APPLIED).await
    }

    /// Stores an undecodable event in its raw form; lookups see it on return.
    pub async fn put_dead_letter(&self, dead_letter: DeadLetter, raw: Bytes) -> Result<(), CommitError> {
        self.0.commit(Record::DeadLetter(Box::new(dead_letter)), raw, CommitOptions::URGENT_APPLIED).await
    }

    /// Applies the result of decoding an event again; lookups see it on return.
    pub async fn replay_event(&self, replay: EventReplay) -> Result<(), CommitError> {
        self.0
            .commit(Record::EventReplay(Box::new(replay)), Bytes::new(), CommitOptions::URGENT_APPLIED)
            .await
    }

    /// Records the time up to which a provider's events are complete; lookups see it on return. The last
    /// record counts.
    pub async fn set_poll_cursor(&self, cursor: PollCursor) -> Result<(), CommitError> {
        self.0.commit(Record::PollCursor(cursor), Bytes::new(), CommitOptions::RELAXED_APPLIED).await
    }

    /// Returns the time up to which the events of an upstream's provider are complete, if it was ever polled.
    pub fn poll_cursor(&self, upstream: &str) -> Result<Option<Timestamp>, ReadError> {
        Ok(self.0.ledger()?.poll_cursor(upstream)?)
    }

    /// Returns whether this event was already stored.
    pub fn has_event(&self, upstream: &str, event: &ProviderEvent) -> Result<bool, ReadError> {
        Ok(self.0.ledger()?.has_event(upstream, event)?)
    }

    /// Returns whether this hint was already stored.
    pub fn has_hint(&self, received_hint: &ReceivedHint) -> Result<bool, ReadError> {
        Ok(self.0.ledger()?.has_hint(received_hint)?)
    }

    /// Returns whether an undecodable event with the same body is stored. Reads all of them.
    pub fn has_dead_letter(&self, dead_letter: &DeadLetter) -> Result<bool, ReadError> {
        let known = |report: &StoredEvent| {
            report.upstream == dead_letter.upstream && dead_letter.has_same_body(report.id)
        };
        Ok(!self.find_dead_letters(1, known)?.is_empty())
    }

    /// Returns the digest of the body that came with a webhook's token, if the token was used.
    pub fn webhook_token(
        &self,
        upstream: &str,
        token: &str,
        signed_at: Timestamp,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.0.ledger()?.webhook_token(upstream, token, signed_at)?)
    }

    /// Returns the message with which a new event would be correlated.
    pub fn correlate(&self, event: &ProviderEvent) -> Result<Option<TrackingId>, ReadError> {
        Ok(self.0.ledger()?.correlate(event)?.map(|(id, ..)| id))
    }

    /// Returns the correlation state of an event.
    pub fn event_state(&self, report: &StoredEvent) -> Result<EventState, ReadError> {
        Ok(self.0.ledger()?.event_state(report.id, &report.upstream, &report.content)?)
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

    /// Returns the raw form of an event; `None` if it is no longer stored, or damaged.
    pub fn raw_event(&self, report: &StoredEvent) -> Result<Option<Bytes>, ReadError> {
        let Some(position) = report.body_position else { return Ok(None) };
        match self.0.load_body(position)? {
            Some(stored) => Ok(stored.read_all()?),
            None => Ok(None),
        }
    }

    /// Returns all events in one of [`Store::log_segments`] that lookups can see, in order of arrival.
    pub fn events_in_segment(&self, segment: u32) -> Result<Vec<StoredEvent>, ReadError> {
        let ledger = self.0.ledger()?;
        let mut reports = Vec::new();
        let (frames, _) = self.0.read_frames(Position { segment, offset: 0 }, usize::MAX)?;
        for frame in frames {
            let Some(mut report) = StoredEvent::from_frame(&frame) else { continue };
            if let Some(event) = ledger.replayed_event(report.id)? {
                report.content = event.into();
            }
            reports.push(report);
        }
        Ok(reports)
    }

    /// Returns the segments that may hold events received at or after that time, oldest first.
    pub fn journal_segments_since(&self, since: Timestamp) -> Result<Vec<u32>, ReadError> {
        let segments = self.0.log_segments()?;
        // A segment ends at the start of its successor.
        let ended = segments.iter().skip(1).take_while(|(_, made)| *made < since).count();
        Ok(segments.into_iter().skip(ended).map(|(number, _)| number).collect())
    }

    /// Returns up to `limit` orphaned events that satisfy `wanted`, newest first. Reads all orphans.
    pub fn find_orphans(
        &self,
        limit: usize,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let mut newest = BTreeMap::new();
        for orphan in self.0.ledger()?.orphans() {
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
        let ledger = self.0.ledger()?;
        let dead_letter =
            ledger.dead_letters().filter(|dead_letter| dead_letter.as_ref().map_or(true, &wanted));
        Ok(dead_letter.take(limit).collect::<Result<_, _>>()?)
    }

    /// Counts orphaned and undecodable events. Reads all of them.
    pub fn count_unmatched(&self) -> Result<(u64, u64), ReadError> {
        Ok(self.0.ledger()?.count_unmatched()?)
    }

    /// Returns hints about the contact with that address, the latest received first.
    pub fn find_hints(&self, address: &str, limit: usize) -> Result<Vec<ReceivedHint>, ReadError> {
        Ok(self.0.ledger()?.find_hints(address, limit)?)
    }
}
