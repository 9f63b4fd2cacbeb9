//! Correlation of provider events with messages.

use crate::ledger::apply::recipient_state::load_recipient;
use crate::ledger::rows::MessageRow;
use crate::ledger::table::Table;
use crate::ledger::tables::{EventDedup, MessageIdIndex, Messages, TrailEventKey, TrailEvents};
use crate::ledger::write_batch::WriteBatch;
use mailtrail_mail::{Mailbox, MessageId, Pseudonym, TrackingId, fold_address, may_be_rewritten};
use mailtrail_trail::{CorrelatedBy, ProviderEvent};
use std::time::Duration;

/// Correlation of an event with a message.
pub struct Correlation {
    /// Tracking id of the message.
    pub id: TrackingId,
    /// Indexes of the recipients.
    pub recipients: Vec<u16>,
    /// Key by which the message was found.
    pub correlated_by: CorrelatedBy,
    pub message_row: MessageRow,
}

/// Returns whether an event was already applied. An event that names its message is recorded in that
/// message's trail. Other events could match another message the second time, so they are recorded
/// separately. An event that a webhook brought with a tracking id may come again without one: Brevo's polling
/// API omits it.
pub fn has_event(rows: &WriteBatch<'_>, upstream: &str, event: &ProviderEvent) -> sled::Result<bool> {
    let is_in_trail = |id| {
        let (at, dedup_key) = (event.at, &*event.dedup_key);
        TrailEvents::contains(rows, TrailEventKey::OfEvent { id, at, upstream, dedup_key })
    };
    if event.tracking_id.map_or(Ok(false), is_in_trail)?
        || EventDedup::contains(rows, (upstream, &event.dedup_key, event.at))?
    {
        return Ok(true);
    }
    let Some(message_id) = event.message_id.as_ref().filter(|_| event.tracking_id.is_none()) else {
        return Ok(false);
    };
    for id in MessageIdIndex::ids_in(rows, message_id.as_str(), MAX_SAME_MESSAGE_ID)? {
        if is_in_trail(id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Correlates an event: first by tracking id, then by Message-ID and recipient.
///
/// Several messages to one recipient may share a Message-ID. The event then belongs to the newest one
/// accepted before the event happened, so the order of arrival does not matter. There is one exception. An
/// event that happened after two such messages, but is applied between their records, stays with the first:
/// it arrived before the second was sent.
pub fn correlate(rows: &WriteBatch<'_>, event: &ProviderEvent) -> sled::Result<Option<Correlation>> {
    if let Some(id) = event.tracking_id {
        // An id that is not ours is another system's, and so is its event.
        return match_recipients(rows, id, event, CorrelatedBy::TrackingId);
    }
    let Some(message_id) = &event.message_id else { return Ok(None) };
    let mut nearest = None;
    for id in find_by_message_id(rows, message_id)? {
        if id.timestamp() > event.at.saturating_add(MAX_CLOCK_SKEW) {
            // No event precedes the acceptance of its message, so this one is about an earlier message.
            continue;
        }
        let found = match_recipients(rows, id, event, CorrelatedBy::MessageId)?;
        let Some(found) = found.filter(|found| found.message_row.has_message_id(message_id)) else {
            continue;
        };
        if id.timestamp() < event.at.saturating_add(TIMESTAMP_RESOLUTION) {
            return Ok(Some(found));
        }
        // The provider's clock may be slow: take the oldest of these if there is no older message.
        nearest = Some(found);
    }
    Ok(nearest)
}

/// Returns messages that may have that Message-ID, newest first.
pub fn find_by_message_id(rows: &WriteBatch<'_>, message_id: &MessageId) -> sled::Result<Vec<TrackingId>> {
    let mut ids = MessageIdIndex::ids_in(rows, message_id.as_str(), MAX_SAME_MESSAGE_ID)?;
    ids.reverse();
    Ok(ids)
}

/// Returns the recipients that an event is about: the named one, or all if it names none. A name that is no
/// address means the only recipient, since providers can be configured to hide addresses. A similar address
/// also means the only recipient if the message was found by tracking id: providers and servers on the path
/// rewrite addresses.
fn match_recipients(
    rows: &WriteBatch<'_>,
    id: TrackingId,
    event: &ProviderEvent,
    correlated_by: CorrelatedBy,
) -> sled::Result<Option<Correlation>> {
    let Some(message_row) = Messages::get(rows, id)? else { return Ok(None) };
    let hidden = event.recipient.as_ref().is_some_and(|named| named.parse::<Mailbox>().is_err());
    let named = event
        .recipient
        .as_deref()
        .filter(|_| !(hidden && message_row.recipient_count == 1))
        .map(fold_address);
    let is_meant = |named: &str, address: &str| {
        named == address
            || (message_row.recipient_count == 1
                && correlated_by == CorrelatedBy::TrackingId
                && may_be_rewritten(named, address))
    };
    let (mut recipients, mut erased) = (Vec::new(), Vec::new());
    for number in 0..message_row.recipient_count {
        let Some(recipient) = load_recipient(rows, &message_row, number)? else { continue };
        let address = recipient.address.to_folded();
        if named.as_ref().is_none_or(|named| is_meant(named, &address)) {
            recipients.push(number);
        } else if correlated_by == CorrelatedBy::TrackingId
            && named.iter().chain([&address]).any(|address| Pseudonym::Trail.is_pseudonym(address))
        {
            erased.push(number);
        }
    }
    // The event names an erased address: if only one erased recipient is possible, it is that one.
    if recipients.is_empty() && erased.len() == 1 {
        recipients = erased;
    }
    Ok((!recipients.is_empty()).then_some(Correlation { id, recipients, correlated_by, message_row }))
}

/// Maximum lag of a provider's clock.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Some providers round to whole seconds.
const TIMESTAMP_RESOLUTION: Duration = Duration::from_secs(1);
/// Messages with one Message-ID that are examined for a correlation, newest first.
const MAX_SAME_MESSAGE_ID: usize = 2000;
