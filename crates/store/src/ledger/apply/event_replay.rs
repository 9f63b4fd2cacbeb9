//! Applies the replay of an event that is decoded again.

use crate::ledger::apply::correlation::find_by_message_id;
use crate::ledger::apply::provider_event::{apply_event, awaited_message};
use crate::ledger::apply::recipient_state::{load_recipient, put_recipient};
use crate::ledger::table::{RowSource, Table};
use crate::ledger::tables::{
    DeadLetters, EventDedup, Messages, Orphans, ReplayedEvents, TrailEventKey, TrailEvents,
};
use crate::ledger::write_batch::WriteBatch;
use crate::record::ProviderEventV1;
use mailtrail_mail::TrackingId;
use mailtrail_trail::{EventMarks, EventReplay, ProviderEvent, Recipient, TrailEvent, TrailEventKind};

/// Applies a replayed event in place of the previous one.
///
/// A message that was finished by an event stays finished: its body may already be gone from the journal.
pub fn apply_event_replay(rows: &mut WriteBatch<'_>, replay: &EventReplay) -> sled::Result<()> {
    let EventReplay { id, upstream, previous, event, .. } = replay;
    DeadLetters::delete(rows, *id);
    let again = load_replayed_event(rows, *id)?;
    let withdrawn = match again.as_ref().or(previous.as_ref()) {
        Some(before) => retract(rows, *id, upstream, before)?,
        None => None,
    };
    apply_event(rows, *id, upstream, replay.source, event)?;
    ReplayedEvents::put(rows, *id, &ProviderEventV1::from(event));
    match withdrawn {
        Some((owner_id, trail_event)) => recompute_marks(rows, owner_id, &trail_event.recipients),
        None => Ok(()),
    }
}

/// Returns the replayed form of an event, if it was replayed.
pub fn load_replayed_event(
    rows: &impl RowSource,
    event_id: TrackingId,
) -> sled::Result<Option<ProviderEvent>> {
    Ok(ReplayedEvents::get(rows, event_id)?.map(ProviderEvent::from))
}

/// Removes an event as if it had never arrived, except for its marks on the recipients of the returned
/// message.
fn retract(
    rows: &mut WriteBatch<'_>,
    event_id: TrackingId,
    upstream: &str,
    event: &ProviderEvent,
) -> sled::Result<Option<(TrackingId, TrailEvent)>> {
    Orphans::delete(rows, (&awaited_message(event), event_id));
    EventDedup::delete(rows, (upstream, &event.dedup_key, event.at));
    let owner = find_owner(rows, upstream, event)?;
    if let Some((owner_id, _)) = &owner {
        TrailEvents::delete(rows, trail_event_key(*owner_id, upstream, event));
    }
    Ok(owner)
}

/// Returns the message that an event was correlated with, and the trail event.
pub fn find_owner(
    rows: &WriteBatch<'_>,
    upstream: &str,
    event: &ProviderEvent,
) -> sled::Result<Option<(TrackingId, TrailEvent)>> {
    let candidates = match (event.tracking_id, &event.message_id) {
        (Some(id), _) => vec![id],
        (None, Some(message_id)) => find_by_message_id(rows, message_id)?,
        (None, None) => Vec::new(),
    };
    for owner_id in candidates {
        let trail_event = TrailEvents::get(rows, trail_event_key(owner_id, upstream, event))?;
        if let Some(trail_event) = trail_event {
            return Ok(Some((owner_id, trail_event.into())));
        }
    }
    Ok(None)
}

fn trail_event_key<'a>(id: TrackingId, upstream: &'a str, event: &'a ProviderEvent) -> TrailEventKey<'a> {
    TrailEventKey::OfEvent { id, at: event.at, upstream, dedup_key: &event.dedup_key }
}

/// Recomputes the marks of recipients from the trail of their message.
fn recompute_marks(rows: &mut WriteBatch<'_>, owner_id: TrackingId, indexes: &[u16]) -> sled::Result<()> {
    let Some(mut row) = Messages::get(rows, owner_id)? else { return Ok(()) };
    let trail = TrailEvents::of_message_in(rows, owner_id)?;
    let events: Vec<_> = trail.iter().filter_map(|found| found.row()).map(TrailEvent::from).collect();
    for &index in indexes {
        let Some(known) = load_recipient(rows, &row, index)? else { continue };
        let mut recomputed = Recipient {
            marks: EventMarks::default(),
            reported_failure: None,
            tracking_confirmed: false,
            ..known.clone()
        };
        for trail_event in events.iter().filter(|trail_event| trail_event.recipients.contains(&index)) {
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
            put_recipient(rows, &mut row, index, &recomputed);
        }
    }
    Messages::put(rows, owner_id, &row);
    Ok(())
}
