//! Applies inbound messages: a row for each, a queue row while it waits, and a row for recognising duplicates.

use crate::ledger::apply::provider_event::claim_token;
use crate::ledger::apply::recipient_state::add_to_counter;
use crate::ledger::apply::text::truncate;
use crate::ledger::inbound_row::InboundRow;
use crate::ledger::table::Table;
use crate::ledger::tables::{InboundDedup, InboundMessages, InboundQueue, SegmentGarbage};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use crate::record::{InboundReceivedV1, InboundStateV1};
use mailtrail_mail::TrackingId;
use mailtrail_trail::{InboundOutcome, InboundReceived, InboundRecord, InboundTransition};

/// Applies the arrival or a state change of an inbound message.
pub fn apply_inbound(
    rows: &mut WriteBatch<'_>,
    inbound: &InboundRecord,
    position: Position,
    body_length: u32,
) -> sled::Result<()> {
    match inbound {
        InboundRecord::Received(arrival) => apply_received(rows, arrival, position, body_length),
        InboundRecord::Transitioned(transition) => apply_transition(rows, transition),
    }
}

fn apply_received(
    rows: &mut WriteBatch<'_>,
    arrival: &InboundReceived,
    position: Position,
    body_length: u32,
) -> sled::Result<()> {
    if !claim_token(rows, &arrival.upstream, arrival.token.as_ref())? {
        return Ok(());
    }
    let same = find_duplicate(rows, arrival)?;
    let (state, diagnostic) = match (&arrival.quarantine_reason, same) {
        (Some(why), _) => (InboundStateV1::DeadLetter, truncate(why)),
        (None, Some(other)) => (InboundStateV1::Duplicate, format!("the same as {other}")),
        (None, None) => (InboundStateV1::Waiting, String::new()),
    };
    let at = arrival.id.timestamp().as_millis();
    let row = InboundRow {
        received: InboundReceivedV1::from(arrival),
        state,
        state_since: at,
        next_attempt: at,
        deferrals: 0,
        last_target: String::new(),
        diagnostic,
        position,
        body_length,
        missing_files: arrival.missing_files,
    };
    put_row(rows, arrival.id, &row);
    Ok(())
}

/// Returns the message that this one duplicates. Without one, later messages are compared with this one.
fn find_duplicate(rows: &mut WriteBatch<'_>, arrival: &InboundReceived) -> sled::Result<Option<TrackingId>> {
    let Some(message_id) = arrival.message_id.as_ref().filter(|_| arrival.quarantine_reason.is_none()) else {
        return Ok(None);
    };
    let recipient = arrival.recipient.to_folded();
    let key = (message_id.as_str(), &*recipient);
    let known = InboundDedup::get(rows, key)?.map(TrackingId::from_bytes);
    let fresh =
        |other: &TrackingId| arrival.id.timestamp().duration_since(other.timestamp()) <= arrival.dedup_window;
    if let Some(other) =
        known.filter(|other| *other != arrival.id && !arrival.dedup_window.is_zero() && fresh(other))
    {
        return Ok(Some(other));
    }
    InboundDedup::put(rows, key, &arrival.id.to_bytes());
    Ok(None)
}

fn apply_transition(rows: &mut WriteBatch<'_>, transition: &InboundTransition) -> sled::Result<()> {
    let Some(mut row) = InboundMessages::get(rows, transition.id)? else { return Ok(()) };
    let at = transition.at.as_millis();
    match (&transition.outcome, row.state) {
        (InboundOutcome::Released { .. }, InboundStateV1::DeadLetter | InboundStateV1::Duplicate) => {
            (row.state, row.state_since, row.next_attempt, row.deferrals) =
                (InboundStateV1::Waiting, at, at, 0);
            (row.last_target, row.diagnostic) = (String::new(), String::new());
        }
        (InboundOutcome::Delivered { target, reply }, InboundStateV1::Waiting) => {
            (row.state, row.state_since) = (InboundStateV1::Delivered, at);
            (row.last_target, row.diagnostic) = (target.clone(), truncate(reply));
            add_to_counter::<SegmentGarbage>(rows, row.position.segment, u64::from(row.body_length))?;
        }
        (InboundOutcome::Deferred { target, reason, next_attempt }, InboundStateV1::Waiting) => {
            (row.next_attempt, row.deferrals) = (next_attempt.as_millis(), row.deferrals.saturating_add(1));
            (row.last_target, row.diagnostic) = (target.clone(), truncate(reason));
        }
        (InboundOutcome::DeadLettered { target, reason }, InboundStateV1::Waiting) => {
            (row.state, row.state_since) = (InboundStateV1::DeadLetter, at);
            (row.last_target, row.diagnostic) = (target.clone(), truncate(reason));
        }
        _ => return Ok(()),
    }
    put_row(rows, transition.id, &row);
    Ok(())
}

fn put_row(rows: &mut WriteBatch<'_>, id: TrackingId, row: &InboundRow) {
    match row.state {
        InboundStateV1::Waiting => {
            InboundQueue::put(rows, id, &(row.next_attempt, row.received.recipient().into()));
        }
        _ => InboundQueue::delete(rows, id),
    }
    InboundMessages::put(rows, id, row);
}
