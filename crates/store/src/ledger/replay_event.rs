//! State of provider events, and the replay of events that are decoded again.

use crate::ledger::apply::{
    apply_event, find_by_message_id, load_message_row, load_recipient, orphan_key, put_recipient,
};
use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::rows::{DeadLetterRow, OrphanRow, TrailEventRow, decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::record::{ProviderEventV1, event_source_from_flag};
use crate::stored_event::{EventContent, EventState, StoredEvent};
use mailtrail_mail::TrackingId;
use mailtrail_trail::{
    EventMarks, EventReplay, EventSource, ProviderEvent, Recipient, TrailEvent, TrailEventKind,
};

/// Applies a replayed event in place of the previous one.
///
/// A message that was finished by an event stays finished: its body may already be gone from the journal.
pub fn apply_event_replay(rows: &mut WriteBatch<'_>, replay: &EventReplay) -> sled::Result<()> {
    let EventReplay { id, upstream, previous, event, .. } = replay;
    rows.delete(keys::dead_letter_key(*id));
    let again = replayed_event(rows, *id)?;
    let withdrawn = match again.as_ref().or(previous.as_ref()) {
        Some(before) => retract(rows, *id, upstream, before)?,
        None => None,
    };
    apply_event(rows, *id, upstream, replay.source, event)?;
    rows.put(keys::replayed_event_key(*id), encode_row(&ProviderEventV1::from(event)));
    match withdrawn {
        Some((owner_id, trail_event)) => recompute_marks(rows, owner_id, &trail_event.recipients),
        None => Ok(()),
    }
}

/// Returns the replayed form of an event, if it was replayed.
fn replayed_event(rows: &WriteBatch<'_>, event_id: TrackingId) -> sled::Result<Option<ProviderEvent>> {
    Ok(rows
        .get(&keys::replayed_event_key(event_id))?
        .as_deref()
        .and_then(decode_row::<ProviderEventV1>)
        .map(ProviderEvent::from))
}

/// Removes an event as if it had never arrived, except for its marks on the recipients of the returned
/// message.
fn retract(
    rows: &mut WriteBatch<'_>,
    event_id: TrackingId,
    upstream: &str,
    event: &ProviderEvent,
) -> sled::Result<Option<(TrackingId, TrailEvent)>> {
    rows.delete(keys::orphan_key(&orphan_key(event), event_id));
    rows.delete(keys::event_dedup_key(upstream, &event.dedup_key, event.at));
    let owner = owner_of(rows, upstream, event)?;
    if let Some((owner_id, _)) = &owner {
        rows.delete(keys::provider_event_key(*owner_id, event.at, upstream, &event.dedup_key));
    }
    Ok(owner)
}

/// Returns the message that an event was correlated with, and the trail event.
fn owner_of(
    rows: &WriteBatch<'_>,
    upstream: &str,
    event: &ProviderEvent,
) -> sled::Result<Option<(TrackingId, TrailEvent)>> {
    let sends = match (event.tracking_id, &event.message_id) {
        (Some(id), _) => vec![id],
        (None, Some(message_id)) => find_by_message_id(rows, message_id)?,
        (None, None) => Vec::new(),
    };
    for owner_id in sends {
        let trail_event =
            rows.get(&keys::provider_event_key(owner_id, event.at, upstream, &event.dedup_key))?;
        if let Some(trail_event) = trail_event.as_deref().and_then(decode_row::<TrailEventRow>) {
            return Ok(Some((owner_id, trail_event.into())));
        }
    }
    Ok(None)
}

/// Recomputes the marks of recipients from the trail of their message.
fn recompute_marks(rows: &mut WriteBatch<'_>, owner_id: TrackingId, numbers: &[u16]) -> sled::Result<()> {
    let Some(mut row) = load_message_row(rows, owner_id)? else { return Ok(()) };
    let trail = rows.scan_prefix(&keys::trail_prefix(owner_id), usize::MAX)?;
    let facts: Vec<_> = trail
        .iter()
        .filter_map(|(_, trail_event)| decode_row::<TrailEventRow>(trail_event))
        .map(TrailEvent::from)
        .collect();
    for &number in numbers {
        let Some(known) = load_recipient(rows, &row, number)? else { continue };
        let mut recomputed = Recipient {
            marks: EventMarks::default(),
            reported_failure: None,
            tracking_confirmed: false,
            ..known.clone()
        };
        for trail_event in facts.iter().filter(|trail_event| trail_event.recipients.contains(&number)) {
            if let (TrailEventKind::EventReceived(kind), Some(correlated_by_key)) =
                (trail_event.kind, trail_event.correlated_by)
            {
                recomputed.add_mark(
                    kind,
                    trail_event.automated,
                    trail_event.at,
                    &trail_event.diagnostic,
                    correlated_by_key,
                );
            }
        }
        if known.is_open() || !recomputed.is_open() {
            put_recipient(rows, &mut row, number, &recomputed);
        }
    }
    rows.put(keys::message_key(owner_id), encode_row(&row));
    Ok(())
}

impl Ledger {
    /// Returns the current content of a replayed event.
    pub fn replayed_event(&self, event_id: TrackingId) -> sled::Result<Option<ProviderEvent>> {
        replayed_event(&WriteBatch::new(self.memtable()), event_id)
    }

    /// Returns the correlation state of an event.
    pub fn event_state(
        &self,
        event_id: TrackingId,
        upstream: &str,
        content: &EventContent,
    ) -> sled::Result<EventState> {
        let rows = WriteBatch::new(self.memtable());
        let there = |key: Vec<u8>| Ok::<_, sled::Error>(rows.get(&key)?.is_some());
        Ok(match content {
            EventContent::DeadLetter { .. } if there(keys::dead_letter_key(event_id))? => {
                EventState::DeadLetter
            }
            EventContent::DeadLetter { .. } => EventState::Unreferenced,
            EventContent::Hint(_) => EventState::Hint,
            EventContent::Event(event) => match owner_of(&rows, upstream, event)? {
                Some((tracking_id, TrailEvent { correlated_by: Some(correlated_by), .. })) => {
                    EventState::Correlated { tracking_id, correlated_by }
                }
                _ if there(keys::orphan_key(&orphan_key(event), event_id))? => EventState::Orphan,
                _ => EventState::Unreferenced,
            },
        })
    }

    /// Returns orphaned events, in no particular order.
    pub fn orphans(&self) -> impl Iterator<Item = sled::Result<StoredEvent>> {
        let row = |(key, value): (sled::IVec, sled::IVec)| {
            let row = decode_row::<OrphanRow>(&value)?;
            let event = ProviderEvent::from(row.event);
            Some(stored_event(
                keys::parse_tracking_id(&key)?,
                row.upstream,
                event_source_from_flag(row.from_poll),
                event.into(),
            ))
        };
        self.memtable().scan_prefix(b"u").filter_map(move |found| found.map(row).transpose())
    }

    /// Returns dead letters, newest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = sled::Result<StoredEvent>> {
        let row = |(key, value): (sled::IVec, sled::IVec)| {
            let row = decode_row::<DeadLetterRow>(&value)?;
            let content = EventContent::DeadLetter { reason: row.reason };
            Some(stored_event(
                keys::parse_tracking_id(&key)?,
                row.upstream,
                event_source_from_flag(row.from_poll),
                content,
            ))
        };
        self.memtable()
            .scan_prefix_rev(keys::DEAD_LETTER_PREFIX)
            .filter_map(move |found| found.map(row).transpose())
    }

    /// Counts orphaned events and dead letters. Reads all of them.
    pub fn count_unmatched(&self) -> sled::Result<(u64, u64)> {
        let count =
            |prefix| self.memtable().scan_prefix(prefix).try_fold(0, |count, row| row.map(|_| count + 1));
        Ok((count(b"u")?, count(keys::DEAD_LETTER_PREFIX)?))
    }
}

fn stored_event(id: TrackingId, upstream: String, source: EventSource, content: EventContent) -> StoredEvent {
    StoredEvent { id, upstream, source, content, body_position: None }
}
