//! Applies provider events: correlates them with their messages, or stores them as orphans.

use crate::ledger::apply::correlation::{Correlation, correlate, has_event};
use crate::ledger::apply::recipient_state::{load_recipient, put_recipient, reschedule, schedule_dsn};
use crate::ledger::apply::suppression::apply_event_evidence;
use crate::ledger::apply::text::truncate;
use crate::ledger::rows::{DeadLetterRow, OrphanRow, TrailEventRow};
use crate::ledger::table::Table;
use crate::ledger::tables::{
    DeadLetters, EventDedup, Messages, Orphans, TrailEventKey, TrailEvents, WebhookTokens,
};
use crate::ledger::write_batch::WriteBatch;
use crate::record::{ProviderEventV1, event_source_from_flag};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{
    CorrelatedBy, DeadLetter, Diagnostic, EventSource, ProviderEvent, ReceivedEvent, TrailEvent,
};

pub fn apply_received_event(rows: &mut WriteBatch<'_>, received_event: &ReceivedEvent) -> sled::Result<()> {
    if claim_token(rows, &received_event.upstream, received_event.token.as_ref())? {
        apply_event(
            rows,
            received_event.id(),
            &received_event.upstream,
            received_event.source,
            &received_event.event,
        )?;
    }
    Ok(())
}

pub fn apply_dead_letter(rows: &mut WriteBatch<'_>, dead: &DeadLetter) -> sled::Result<()> {
    if claim_token(rows, &dead.upstream, dead.token.as_ref())? {
        let reason = truncate(&dead.reason);
        let row = DeadLetterRow {
            upstream: dead.upstream.clone(),
            from_poll: dead.source == EventSource::Poll,
            reason,
        };
        DeadLetters::put(rows, dead.id(), &row);
    }
    Ok(())
}

/// Records the use of a token. Returns false if the token came with another body before: a signature that
/// does not cover the body was reused by a third party.
pub fn claim_token(
    rows: &mut WriteBatch<'_>,
    upstream: &str,
    token: Option<&(String, Timestamp, [u8; 16])>,
) -> sled::Result<bool> {
    let Some((token, signed_at, digest)) = token else { return Ok(true) };
    let key = (upstream, &**token, *signed_at);
    let known = WebhookTokens::get(rows, key)?;
    if known.is_none() {
        WebhookTokens::put(rows, key, digest);
    }
    Ok(known.is_none_or(|known| known == *digest))
}

/// Correlates an event with its message, or stores it as an orphan.
pub fn apply_event(
    rows: &mut WriteBatch<'_>,
    event_id: TrackingId,
    upstream: &str,
    via: EventSource,
    event: &ProviderEvent,
) -> sled::Result<()> {
    if has_event(rows, upstream, event)? {
        return Ok(());
    }
    let found = correlate(rows, event)?;
    apply_event_evidence(rows, upstream, via, event)?;
    if found.as_ref().is_none_or(|found| found.correlated_by != CorrelatedBy::TrackingId) {
        EventDedup::put(rows, (upstream, &event.dedup_key, event.at), &());
    }
    match found {
        Some(found) => attach_event(rows, upstream, via, event, found),
        None => {
            let row = OrphanRow {
                upstream: upstream.to_owned(),
                from_poll: via == EventSource::Poll,
                event: ProviderEventV1::from(event),
            };
            Orphans::put(rows, (&awaited_message(event), event_id), &row);
            Ok(())
        }
    }
}

/// Returns the message that an orphan waits for: a tracking id or a Message-ID.
pub fn awaited_message(event: &ProviderEvent) -> String {
    let message_id = || event.message_id.as_ref().map(ToString::to_string);
    event.tracking_id.map(|id| id.to_string()).or_else(message_id).unwrap_or_default()
}

/// Correlates orphaned events with a message that was accepted after them.
pub fn correlate_orphans(rows: &mut WriteBatch<'_>, awaited: &str) -> sled::Result<()> {
    for found in Orphans::awaiting(rows, awaited, MAX_ORPHANS)? {
        let Some(orphan) = found.row() else { continue };
        let event = ProviderEvent::from(orphan.event);
        if let Some(owner) = correlate(rows, &event)? {
            attach_event(rows, &orphan.upstream, event_source_from_flag(orphan.from_poll), &event, owner)?;
            rows.delete(found.encoded_key().clone());
        }
    }
    Ok(())
}

/// Attaches an event to its message.
fn attach_event(
    rows: &mut WriteBatch<'_>,
    upstream: &str,
    via: EventSource,
    event: &ProviderEvent,
    found: Correlation,
) -> sled::Result<()> {
    let Correlation { id, recipients: indexes, correlated_by, message_row: mut row } = found;
    let event = &ProviderEvent { diagnostic: truncate_diagnostic(&event.diagnostic), ..event.clone() };
    let mut settles = false;
    for index in &indexes {
        let Some(mut recipient) = load_recipient(rows, &row, *index)? else { continue };
        let waited = recipient.is_open();
        recipient.apply_event(event, correlated_by);
        settles |= waited && !recipient.is_open();
        schedule_dsn(rows, &row, *index, &mut recipient);
        put_recipient(rows, &mut row, *index, &recipient);
    }
    let trail_event = TrailEvent::from_provider_event(event, upstream, via, indexes, Some(correlated_by));
    let key = TrailEventKey::OfEvent { id, at: event.at, upstream, dedup_key: &event.dedup_key };
    TrailEvents::put(rows, key, &TrailEventRow::from(&trail_event));
    if settles {
        let due = row.next_attempt();
        reschedule(rows, &mut row, due)?;
    }
    Messages::put(rows, id, &row);
    Ok(())
}

/// Shortens a diagnostic to fit a row; the full payload stays in the journal.
fn truncate_diagnostic(words: &Diagnostic) -> Diagnostic {
    let cut = |text: &Option<String>| text.as_deref().map(truncate);
    Diagnostic { text: cut(&words.text), url: cut(&words.url), ..words.clone() }
}

/// Orphans of one Message-ID that are examined when a message is accepted.
const MAX_ORPHANS: usize = 5000;
