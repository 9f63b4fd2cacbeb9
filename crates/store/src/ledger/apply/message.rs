//! Applies accepted messages and repeated submissions.

use crate::ledger::apply::provider_event::correlate_orphans;
use crate::ledger::rows::{MessageRow, QueueEntryRow, QueueKeyRow, RecipientRow, TrailEventRow};
use crate::ledger::table::Table;
use crate::ledger::tables::{
    MessageIdIndex, Messages, OdooRecordIndex, PendingDsns, QueueEntries, RecipientIndex, Recipients,
    TrailEventKey, TrailEvents,
};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use crate::record::MessageV5;
use mailtrail_trail::{
    AcceptedMessage, DuplicateSubmission, Message, Recipient, ReportedRecipient, TrailEvent,
};

pub fn apply_accepted(
    rows: &mut WriteBatch<'_>,
    accepted: &AcceptedMessage,
    position: Position,
    body_length: u32,
) -> sled::Result<()> {
    let (message, id) = (&accepted.message, accepted.message.id);
    let due = id.timestamp();
    let queue_key = QueueKeyRow::Route(message.route.clone());
    QueueEntries::put_new(rows, (message.lane, &queue_key, due, id), &queue_key);
    let only_recipient = match &accepted.recipients[..] {
        [only] => Some(RecipientRow::from(&Recipient::new(only.clone()))),
        _ => None,
    };
    let row = MessageRow {
        message: MessageV5::from(message),
        recipient_count: u16::try_from(accepted.recipients.len()).unwrap_or(u16::MAX),
        attempts: 0,
        queue_entry: Some(QueueEntryRow { next_attempt: due.as_millis(), queue_key }),
        uncertain_upstream: None,
        excluded_upstreams: Vec::new(),
        changed_at: due.as_millis(),
        position,
        body_length,
        only_recipient,
    };
    Messages::put_new(rows, id, &row);
    for (index, address) in (0u16..).zip(&accepted.recipients) {
        if row.only_recipient.is_none() {
            let recipient = RecipientRow::from(&Recipient::new(address.clone()));
            Recipients::put_new(rows, (id, index), &recipient);
        }
        RecipientIndex::put_new(rows, (&address.to_folded(), id), &());
    }
    for record in &message.odoo_records {
        OdooRecordIndex::put_new(rows, (&record.to_string(), id), &());
    }
    correlate_orphans(rows, &id.to_string())?;
    if let Some(message_id) = &message.message_id {
        MessageIdIndex::put_new(rows, (message_id.as_str(), id), &());
        correlate_orphans(rows, message_id.as_str())?;
    }
    if let Some(about) = &message.dsn_for {
        record_dsn(rows, about, message, position)?;
    }
    Ok(())
}

/// Handles an accepted DSN: it is no longer pending, and the trail of the reported message records it.
fn record_dsn(
    rows: &mut WriteBatch<'_>,
    about: &ReportedRecipient,
    report: &Message,
    position: Position,
) -> sled::Result<()> {
    PendingDsns::delete(rows, about);
    if Messages::contains(rows, about.tracking_id)? {
        let trail_event = TrailEvent::from_dsn(about, report.id);
        let (id, at, part) = (about.tracking_id, trail_event.at, about.recipient_index);
        let key = TrailEventKey::OfRecord { id, at, position, part };
        TrailEvents::put(rows, key, &TrailEventRow::from(&trail_event));
    }
    Ok(())
}

/// Adds a repeated submission to the trail of its message.
pub fn apply_duplicate(
    rows: &mut WriteBatch<'_>,
    duplicate: &DuplicateSubmission,
    position: Position,
) -> sled::Result<()> {
    if Messages::contains(rows, duplicate.id)? {
        let trail_event = TrailEventRow::from(&TrailEvent::from_duplicate(duplicate));
        let (id, at) = (duplicate.id, duplicate.at);
        TrailEvents::put(rows, TrailEventKey::OfRecord { id, at, position, part: 0 }, &trail_event);
    }
    Ok(())
}
