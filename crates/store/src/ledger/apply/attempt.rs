//! Applies attempts, and the actions of operators on the queue and on circuit breakers.

use crate::ledger::apply::recipient_state::{
    add_to_counter, load_recipient, put_recipient, reschedule, schedule_dsn,
};
use crate::ledger::rows::TrailEventRow;
use crate::ledger::table::Table;
use crate::ledger::tables::{
    AttemptRow, Attempts, BreakerOverrides, Messages, RelayedCounts, TrailEventKey, TrailEvents,
};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use mailtrail_trail::{
    AttemptOutcome, AttemptStarted, AttemptStatus, BreakerOverride, QueueAction, QueueVerb, Recipient,
    RecipientResult, TrailEvent, step,
};
use std::borrow::Cow;

/// Records that an attempt is in progress; the first record counts.
pub fn apply_attempt_start(rows: &mut WriteBatch<'_>, attempt_start: &AttemptStarted) -> sled::Result<()> {
    let upstream = Cow::Borrowed(&*attempt_start.upstream);
    let row = AttemptRow { at: attempt_start.at.as_millis(), upstream };
    Attempts::put_if_absent(rows, attempt_start.id, &row)?;
    Ok(())
}

pub fn apply_outcome(
    rows: &mut WriteBatch<'_>,
    outcome: &AttemptOutcome,
    position: Position,
) -> sled::Result<()> {
    Attempts::delete(rows, outcome.id);
    let Some(mut row) = Messages::get(rows, outcome.id)? else { return Ok(()) };
    row.attempts += 1;
    row.changed_at = outcome.at.as_millis();
    let is_relayed = |settled: &&RecipientResult| settled.status == AttemptStatus::Relayed;
    let relayed: usize =
        outcome.results.iter().filter(is_relayed).map(|settled| settled.recipients.len()).sum();
    if relayed > 0 {
        let key = (&*outcome.upstream, outcome.at.day_number());
        add_to_counter::<RelayedCounts>(rows, key, relayed as u64)?;
    }
    row.excluded_upstreams.retain(|upstream| **upstream != *outcome.upstream);
    if outcome.results.iter().any(|settled| settled.diagnostic.name == step::CAPABILITY_CHECK) {
        row.excluded_upstreams.push(outcome.upstream.clone().into());
    }
    for (part, settled) in (0u16..).zip(&outcome.results) {
        for index in &settled.recipients {
            let Some(mut recipient) = load_recipient(rows, &row, *index)? else { continue };
            recipient.apply_attempt(settled.status, &settled.diagnostic);
            if settled.status == AttemptStatus::Unknown {
                row.uncertain_upstream = Some(outcome.upstream.clone().into());
            }
            schedule_dsn(rows, &row, *index, &mut recipient);
            put_recipient(rows, &mut row, *index, &recipient);
        }
        let trail_event = TrailEvent::from_attempt(outcome, settled);
        let key = TrailEventKey::OfRecord { id: outcome.id, at: outcome.at, position, part };
        TrailEvents::put_new(rows, key, &TrailEventRow::from(&trail_event));
    }
    reschedule(rows, &mut row, outcome.next_attempt)?;
    Messages::put(rows, outcome.id, &row);
    Ok(())
}

pub fn apply_queue_action(
    rows: &mut WriteBatch<'_>,
    action: &QueueAction,
    position: Position,
) -> sled::Result<()> {
    let Some(mut row) = Messages::get(rows, action.id)? else { return Ok(()) };
    let Some(due) = row.next_attempt() else { return Ok(()) };
    let diagnostic = action.to_diagnostic();
    let (mut concerned, mut unknown) = (Vec::new(), false);
    for index in 0..row.recipient_count {
        let Some(mut recipient) = load_recipient(rows, &row, index)?.filter(Recipient::is_open) else {
            continue;
        };
        unknown |= recipient.attempt_status == AttemptStatus::Unknown;
        recipient.apply_action(action.verb, &diagnostic);
        schedule_dsn(rows, &row, index, &mut recipient);
        put_recipient(rows, &mut row, index, &recipient);
        concerned.push(index);
    }
    let trail_event = TrailEventRow::from(&TrailEvent::from_queue_action(action, concerned));
    let (id, at) = (action.id, action.at);
    TrailEvents::put(rows, TrailEventKey::OfRecord { id, at, position, part: 0 }, &trail_event);
    row.changed_at = row.changed_at.max(action.at.as_millis());
    let due = match action.verb {
        // A message that may have been delivered keeps waiting for its event.
        QueueVerb::Release if unknown => due.max(action.at),
        QueueVerb::Retry | QueueVerb::Release => action.at,
        QueueVerb::Hold | QueueVerb::Bounce | QueueVerb::Delete => due,
    };
    reschedule(rows, &mut row, Some(due))?;
    Messages::put(rows, action.id, &row);
    Ok(())
}

/// Stores or removes an operator's override of a circuit breaker.
pub fn apply_breaker_override(rows: &mut WriteBatch<'_>, breaker_override: &BreakerOverride) {
    let BreakerOverride { upstream, open, reason, .. } = breaker_override;
    if *open {
        BreakerOverrides::put(rows, upstream, reason)
    } else {
        BreakerOverrides::delete(rows, upstream)
    }
}
