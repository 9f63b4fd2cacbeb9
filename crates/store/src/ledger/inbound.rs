//! Rows of inbound messages: a row for each, a queue row while it waits, and a row for recognising
//! duplicates.

use crate::ledger::apply::{add_to_counter, claim_token, truncate};
use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::rows::{decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use crate::record::{InboundReceivedV1, InboundStateV1};
use mailtrail_mail::{Mailbox, Timestamp, TrackingId};
use mailtrail_trail::{
    InboundOutcome, InboundReceived, InboundRecord, InboundState, InboundSummary, InboundTransition,
};
use serde::{Deserialize, Serialize};

/// Row of an inbound message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InboundRow {
    received: InboundReceivedV1,
    state: InboundStateV1,
    state_since: u64,
    next_attempt: u64,
    deferrals: u32,
    last_target: String,
    diagnostic: String,
    position: Position,
    /// Length of the body in the journal, in bytes.
    body_length: u32,
    missing_files: u32,
}

pub fn apply_inbound(
    rows: &mut WriteBatch<'_>,
    inbound: &InboundRecord,
    place: Position,
    body: u32,
) -> sled::Result<()> {
    match inbound {
        InboundRecord::Received(arrival) => apply_received(rows, arrival, place, body),
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
    let key = keys::inbound_dedup_key(message_id.as_str(), &arrival.recipient.to_folded());
    let known = rows.get(&key)?.as_deref().and_then(decode_row::<[u8; 16]>).map(TrackingId::from_bytes);
    let fresh =
        |other: &TrackingId| arrival.id.timestamp().duration_since(other.timestamp()) <= arrival.dedup_window;
    if let Some(other) =
        known.filter(|other| *other != arrival.id && !arrival.dedup_window.is_zero() && fresh(other))
    {
        return Ok(Some(other));
    }
    rows.put(key, encode_row(&arrival.id.to_bytes()));
    Ok(None)
}

fn apply_transition(rows: &mut WriteBatch<'_>, transition: &InboundTransition) -> sled::Result<()> {
    let found = rows.get(&keys::inbound_key(transition.id))?;
    let Some(mut row) = found.as_deref().and_then(decode_row::<InboundRow>) else { return Ok(()) };
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
            add_to_counter(rows, keys::garbage_key(row.position.segment), u64::from(row.body_length))?;
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
    let waits = keys::inbound_queue_key(id);
    match row.state {
        InboundStateV1::Waiting => rows.put(waits, encode_row(&(row.next_attempt, row.received.recipient()))),
        _ => rows.delete(waits),
    }
    rows.put(keys::inbound_key(id), encode_row(row));
}

impl InboundRow {
    fn into_domain(self) -> Option<(InboundSummary, Position)> {
        let message = InboundSummary {
            received: InboundReceived { missing_files: self.missing_files, ..self.received.into_domain()? },
            state: InboundState::from(self.state),
            state_since: Timestamp::from_millis(self.state_since),
            next_attempt: Timestamp::from_millis(self.next_attempt),
            deferrals: self.deferrals,
            last_target: self.last_target,
            diagnostic: self.diagnostic,
        };
        Some((message, self.position))
    }
}

impl Ledger {
    /// Returns one inbound message and the position of its body.
    pub fn inbound_mail(&self, id: TrackingId) -> sled::Result<Option<(InboundSummary, Position)>> {
        let row = self.memtable().get(&keys::inbound_key(id))?;
        Ok(row.as_deref().and_then(decode_row::<InboundRow>).and_then(InboundRow::into_domain))
    }

    /// Returns the earliest received waiting message that is due by `now` and to a recipient that satisfies
    /// `wanted`.
    pub fn next_due_inbound(
        &self,
        now: Timestamp,
        wanted: impl Fn(&Mailbox) -> bool,
    ) -> sled::Result<Option<InboundSummary>> {
        for row in self.memtable().scan_prefix(keys::INBOUND_QUEUE_PREFIX) {
            let (key, value) = row?;
            let Some((id, (due, recipient))) =
                keys::parse_tracking_id(&key).zip(decode_row::<(u64, String)>(&value))
            else {
                continue;
            };
            if due <= now.as_millis() && recipient.parse().is_ok_and(|recipient| wanted(&recipient)) {
                return Ok(self.inbound_mail(id)?.map(|(message, _)| message));
            }
        }
        Ok(None)
    }

    /// Returns the messages that satisfy `wanted`, newest first.
    pub fn find_inbound(
        &self,
        limit: usize,
        wanted: impl Fn(&InboundSummary) -> bool,
    ) -> sled::Result<Vec<InboundSummary>> {
        let mut found = Vec::new();
        for row in self.memtable().scan_prefix_rev(keys::INBOUND_PREFIX) {
            let message = decode_row::<InboundRow>(&row?.1)
                .and_then(InboundRow::into_domain)
                .map(|(message, _)| message);
            found.extend(message.filter(&wanted));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Returns up to `limit` keys of inbound messages that were received before `before` and are not waiting,
    /// and of their deduplication rows.
    pub fn expired_inbound(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for row in self.memtable().scan_prefix(keys::INBOUND_PREFIX) {
            let (key, value) = row?;
            if expired.len() >= limit
                || keys::parse_tracking_id(&key).is_none_or(|id| id.timestamp() >= before)
            {
                break;
            }
            if decode_row(&value).is_none_or(|row: InboundRow| row.state != InboundStateV1::Waiting) {
                expired.push(key.to_vec());
            }
        }
        for row in self.memtable().scan_prefix(keys::INBOUND_DEDUP_PREFIX) {
            let (key, value) = row?;
            let old = |id: [u8; 16]| TrackingId::from_bytes(id).timestamp() < before;
            if expired.len() < limit && decode_row(&value).is_none_or(old) {
                expired.push(key.to_vec());
            }
        }
        Ok(expired)
    }
}
