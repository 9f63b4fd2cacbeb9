//! State of recipients: their rows, pending DSNs and the schedule of their message.

use crate::ledger::rows::{MessageRow, QueueEntryRow, QueueKeyRow, RecipientRow};
use crate::ledger::table::Table;
use crate::ledger::tables::{PendingDsns, QueueEntries, Recipients, SegmentGarbage};
use crate::ledger::write_batch::WriteBatch;
use mailtrail_mail::Timestamp;
use mailtrail_trail::{DsnAction, Recipient, RecipientState, ReportedRecipient, step};

/// Returns a recipient of a message; `None` if its row is damaged.
pub fn load_recipient(
    rows: &WriteBatch<'_>,
    row: &MessageRow,
    index: u16,
) -> sled::Result<Option<Recipient>> {
    let stored = match &row.only_recipient {
        Some(only) => Some(only.clone()),
        None => Recipients::get(rows, (row.message.id(), index))?,
    };
    Ok(stored.and_then(RecipientRow::into_domain))
}

/// Stores a recipient's state; the caller must store the message's row afterwards.
pub fn put_recipient(rows: &mut WriteBatch<'_>, row: &mut MessageRow, index: u16, recipient: &Recipient) {
    let changed = RecipientRow::from(recipient);
    match &mut row.only_recipient {
        Some(only) => *only = changed,
        None => Recipients::put(rows, (row.message.id(), index), &changed),
    }
}

/// Schedules a DSN for a recipient if it became due with this change.
pub fn schedule_dsn(
    rows: &mut WriteBatch<'_>,
    row: &MessageRow,
    recipient_index: u16,
    recipient: &mut Recipient,
) {
    let already_sent =
        |dsn_action| recipient.dsn_sent == Some(DsnAction::Failed) || recipient.dsn_sent == Some(dsn_action);
    if let Some(action) = row
        .message
        .dsn_action(recipient_index, recipient.state())
        .filter(|dsn_action| !already_sent(*dsn_action))
    {
        recipient.dsn_sent = Some(action);
        let about = ReportedRecipient { tracking_id: row.message.id(), recipient_index, action };
        PendingDsns::put(rows, &about, &());
    }
}

/// Schedules the next attempt at `due` if any recipient is still open. A held message stays in the queue.
pub fn reschedule(
    rows: &mut WriteBatch<'_>,
    row: &mut MessageRow,
    due: Option<Timestamp>,
) -> sled::Result<()> {
    let id = row.message.id();
    let (mut open, mut held, mut unknown, mut passed) = (false, false, false, false);
    for number in 0..row.recipient_count {
        let Some(recipient) = load_recipient(rows, row, number)? else { continue };
        open |= recipient.is_open();
        held |= recipient.state() == RecipientState::Held;
        unknown |= recipient.state() == RecipientState::Unknown;
        passed |= recipient.is_open() && recipient.diagnostic.name == step::CAPABILITY_CHECK;
    }
    let route = row.message.route();
    let queue_key = match &row.uncertain_upstream {
        _ if held => QueueKeyRow::Held,
        Some(name) if unknown => QueueKeyRow::Upstream { name: name.clone(), route },
        _ if passed => QueueKeyRow::RouteExcept { route, excluded: row.excluded_upstreams.clone() },
        _ => QueueKeyRow::Route(route),
    };
    let queued = due.filter(|_| open).map(|due| QueueEntryRow { next_attempt: due.as_millis(), queue_key });
    if queued == row.queue_entry {
        return Ok(());
    }
    let lane = row.message.lane();
    if let Some(earlier) = &row.queue_entry {
        QueueEntries::delete(rows, QueueEntries::entry_key(lane, earlier, id));
    }
    match &queued {
        Some(queued) => {
            QueueEntries::put_new(rows, QueueEntries::entry_key(lane, queued, id), &queued.queue_key);
        }
        None => add_to_counter::<SegmentGarbage>(rows, row.position.segment, u64::from(row.body_length))?,
    }
    row.queue_entry = queued;
    Ok(())
}

/// Adds to a counter row.
pub fn add_to_counter<T>(rows: &mut WriteBatch<'_>, key: T::Key<'_>, more: u64) -> sled::Result<()>
where
    T: for<'r> Table<Row<'r> = u64>,
{
    let key = T::key(key);
    let known = rows.get(&key)?.and_then(|row| T::decode(&row)).unwrap_or_default();
    rows.put(key, T::encode(&(known + more)));
    Ok(())
}
