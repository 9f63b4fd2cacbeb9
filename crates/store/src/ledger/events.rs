//! Lookups of provider events and their correlation state.

use crate::ledger::apply::{awaited_message, correlate, find_owner, has_event, load_replayed_event};
use crate::ledger::database::Ledger;
use crate::ledger::table::{Table, TableRow};
use crate::ledger::tables::{DeadLetters, Orphans, PollCursors, WebhookTokens};
use crate::ledger::write_batch::WriteBatch;
use crate::record::event_source_from_flag;
use crate::stored_event::{EventContent, EventState, StoredEvent};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{CorrelatedBy, EventSource, ProviderEvent, TrailEvent};

impl Ledger {
    /// Returns whether this event was already stored.
    pub fn has_event(&self, upstream: &str, event: &ProviderEvent) -> sled::Result<bool> {
        has_event(&WriteBatch::new(self.memtable()), upstream, event)
    }

    /// Returns the digest of the body that came with a webhook's token.
    pub fn webhook_token(
        &self,
        upstream: &str,
        token: &str,
        signed_at: Timestamp,
    ) -> sled::Result<Option<Vec<u8>>> {
        Ok(WebhookTokens::get(self.memtable(), (upstream, token, signed_at))?.map(|digest| digest.to_vec()))
    }

    /// Returns the message that an event belongs to.
    pub fn correlate(
        &self,
        event: &ProviderEvent,
    ) -> sled::Result<Option<(TrackingId, Vec<u16>, CorrelatedBy)>> {
        let found = correlate(&WriteBatch::new(self.memtable()), event)?;
        Ok(found.map(|found| (found.id, found.recipients, found.correlated_by)))
    }

    /// Returns the time up to which the events of an upstream's provider are complete.
    pub fn poll_cursor(&self, upstream: &str) -> sled::Result<Option<Timestamp>> {
        Ok(PollCursors::get(self.memtable(), upstream)?.map(Timestamp::from_millis))
    }

    /// Returns the current content of a replayed event.
    pub fn replayed_event(&self, event_id: TrackingId) -> sled::Result<Option<ProviderEvent>> {
        load_replayed_event(self.memtable(), event_id)
    }

    /// Returns the correlation state of an event.
    pub fn event_state(
        &self,
        event_id: TrackingId,
        upstream: &str,
        content: &EventContent,
    ) -> sled::Result<EventState> {
        let rows = WriteBatch::new(self.memtable());
        Ok(match content {
            EventContent::DeadLetter { .. } if DeadLetters::contains(&rows, event_id)? => {
                EventState::DeadLetter
            }
            EventContent::DeadLetter { .. } => EventState::Unreferenced,
            EventContent::Hint(_) => EventState::Hint,
            EventContent::Event(event) => match find_owner(&rows, upstream, event)? {
                Some((tracking_id, TrailEvent { correlated_by: Some(correlated_by), .. })) => {
                    EventState::Correlated { tracking_id, correlated_by }
                }
                _ if Orphans::contains(&rows, (&awaited_message(event), event_id))? => EventState::Orphan,
                _ => EventState::Unreferenced,
            },
        })
    }

    /// Returns orphaned events, in no particular order.
    pub fn orphans(&self) -> impl Iterator<Item = sled::Result<StoredEvent>> {
        let event = |found: TableRow<Orphans>| {
            let row = found.row()?;
            let event = ProviderEvent::from(row.event);
            Some(stored_event(
                found.key()?,
                row.upstream,
                event_source_from_flag(row.from_poll),
                event.into(),
            ))
        };
        Orphans::scan(self.memtable()).filter_map(move |found| found.map(event).transpose())
    }

    /// Returns dead letters, newest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = sled::Result<StoredEvent>> {
        let event = |found: TableRow<DeadLetters>| {
            let row = found.row()?;
            let content = EventContent::DeadLetter { reason: row.reason };
            Some(stored_event(found.key()?, row.upstream, event_source_from_flag(row.from_poll), content))
        };
        DeadLetters::scan_rev(self.memtable()).filter_map(move |found| found.map(event).transpose())
    }

    /// Counts orphaned events and dead letters. Reads all of them.
    pub fn count_unmatched(&self) -> sled::Result<(u64, u64)> {
        let orphans = Orphans::scan(self.memtable()).try_fold(0, |count, row| row.map(|_| count + 1))?;
        let dead_letters =
            DeadLetters::scan(self.memtable()).try_fold(0, |count, row| row.map(|_| count + 1))?;
        Ok((orphans, dead_letters))
    }
}

fn stored_event(id: TrackingId, upstream: String, source: EventSource, content: EventContent) -> StoredEvent {
    StoredEvent { id, upstream, source, content, body_position: None }
}
