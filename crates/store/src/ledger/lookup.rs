//! Lookups of messages, their trails and their queue.

use crate::ledger::database::Ledger;
use crate::ledger::rows::{MessageRow, QueueKeyRow, RecipientRow};
use crate::ledger::table::{Table, TableRows};
use crate::ledger::tables::{
    AttemptRow, Attempts, BreakerOverrides, MessageIdIndex, Messages, OdooRecordIndex, PendingDsns,
    QueueEntries, RecipientIndex, Recipients, RelayedCounts, TrailEvents,
};
use crate::queue_id::QueueId;
use mailtrail_mail::{Mailbox, MessageId, OdooRecord, Timestamp, TrackingId, fold_address};
use mailtrail_trail::{AttemptStarted, Message, Recipient, ReportedRecipient, Trail, TrailEvent};
use std::ops::Bound::Included;
use std::ops::RangeInclusive;
use std::time::Duration;

impl Ledger {
    /// Returns one message and its row.
    pub fn load_message(&self, id: TrackingId) -> sled::Result<Option<(Message, MessageRow)>> {
        let row = Messages::get(self.memtable(), id)?;
        Ok(row.and_then(|row| Some((row.message.clone().into_domain()?, row))))
    }

    /// Returns whether the message exists.
    pub fn has_message(&self, id: TrackingId) -> sled::Result<bool> {
        Messages::contains(self.memtable(), id)
    }

    /// Returns whether an attempt is in progress, or was interrupted.
    pub fn is_sending(&self, id: TrackingId) -> sled::Result<bool> {
        Attempts::contains(self.memtable(), id)
    }

    /// Returns the recipients of a message in the order of the envelope.
    pub fn load_recipients(&self, id: TrackingId, row: &MessageRow) -> sled::Result<Vec<Recipient>> {
        let mut recipients = Vec::with_capacity(usize::from(row.recipient_count));
        for index in 0..row.recipient_count {
            let found = match &row.only_recipient {
                Some(only) => Some(only.clone()),
                None => Recipients::get(self.memtable(), (id, index))?,
            };
            // Skipping a damaged row would shift the index of the next recipient.
            let damaged = || sled::Error::ReportableBug(format!("recipient {index} of {id} cannot be read"));
            recipients.push(found.and_then(RecipientRow::into_domain).ok_or_else(damaged)?);
        }
        Ok(recipients)
    }

    /// Returns a consistent snapshot of one message's trail: it is read again if it changed in the meantime.
    pub fn load_trail(&self, id: TrackingId) -> sled::Result<Option<Trail>> {
        let key = Messages::key(id);
        for _ in 0..MAX_TRAIL_READS {
            let before = self.memtable().get(&key)?;
            let trail = self.read_trail(id)?;
            if self.memtable().get(&key)? == before {
                return Ok(trail);
            }
        }
        self.read_trail(id)
    }

    fn read_trail(&self, id: TrackingId) -> sled::Result<Option<Trail>> {
        let Some((message, row)) = self.load_message(id)? else { return Ok(None) };
        let mut events = vec![TrailEvent::from_acceptance(&message)];
        for trail_event in TrailEvents::of_message(self.memtable(), id) {
            events.extend(trail_event?.row().map(TrailEvent::from));
        }
        events[1..].sort_by_key(|trail_event| trail_event.at);
        Ok(Some(Trail {
            recipients: self.load_recipients(id, &row)?,
            events,
            attempts: row.attempts,
            next_attempt: row.next_attempt(),
            queue_key: row.queue_entry.map(|queued| queued.queue_key.into()),
            is_sending: self.is_sending(id)?,
            message,
        }))
    }

    /// Returns the queues that hold messages, those of the first lane first.
    pub fn queue_ids(&self) -> sled::Result<Vec<QueueId>> {
        let queues = QueueEntries::queues(self.memtable())?.into_iter();
        Ok(queues.map(|(lane, queue_key)| QueueId { lane, key: queue_key.into() }).collect())
    }

    fn queue_entries(&self, queue: &QueueId) -> TableRows<'_, QueueEntries> {
        QueueEntries::of_queue(self.memtable(), queue.lane, &QueueKeyRow::from(&queue.key))
    }

    /// Returns up to `limit` messages of a queue that are due by `now` and pass `is_unlocked`, earliest
    /// first. Also returns when the next message after them is due.
    pub fn due_messages(
        &self,
        queue: &QueueId,
        now: Timestamp,
        limit: usize,
        mut is_unlocked: impl FnMut(TrackingId) -> bool,
    ) -> sled::Result<(Vec<TrackingId>, Option<Timestamp>)> {
        let mut due = Vec::new();
        for row in self.queue_entries(queue) {
            let Some((at, id)) = row?.key() else { continue };
            if at > now || due.len() == limit {
                return Ok((due, Some(at)));
            }
            if is_unlocked(id) {
                due.push(id);
            }
        }
        Ok((due, None))
    }

    /// Returns the messages of a queue that satisfy `predicate`, each with its due time, earliest first.
    pub fn queued_messages(
        &self,
        queue: &QueueId,
        predicate: impl Fn(TrackingId) -> bool,
        limit: usize,
    ) -> sled::Result<Vec<(Timestamp, TrackingId)>> {
        let due = self.queue_entries(queue).filter_map(|row| row.map(|row| row.key()).transpose());
        due.filter(|due| due.as_ref().map_or(true, |(_, id)| predicate(*id))).take(limit).collect()
    }

    /// Returns up to `limit` messages of a queue with a wait that began after `now`, each with its intended
    /// delay.
    pub fn queued_in_future(
        &self,
        queue: &QueueId,
        now: Timestamp,
        limit: usize,
    ) -> sled::Result<Vec<(TrackingId, Duration)>> {
        let mut ahead = Vec::new();
        for row in self.queue_entries(queue) {
            let Some((due, id)) = row?.key().filter(|(due, _)| *due > now) else { continue };
            let Some((_, row)) = self.load_message(id)? else { continue };
            let began = Timestamp::from_millis(row.changed_at);
            if began > now {
                ahead.push((id, due.duration_since(began)));
            }
            if ahead.len() == limit {
                break;
            }
        }
        Ok(ahead)
    }

    /// Returns attempts that are in progress or were interrupted.
    pub fn interrupted_attempts(&self) -> sled::Result<Vec<AttemptStarted>> {
        let rows = Attempts::scan(self.memtable()).map(|found| {
            let found = found?;
            let started = |(id, row): (TrackingId, AttemptRow<'_>)| AttemptStarted {
                id,
                at: Timestamp::from_millis(row.at),
                upstream: row.upstream.into_owned(),
            };
            Ok(found.key().zip(found.row()).map(started))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Returns the operator's reason for keeping the breaker of an upstream open, if it is overridden.
    pub fn breaker_override(&self, upstream: &str) -> sled::Result<Option<String>> {
        BreakerOverrides::get(self.memtable(), upstream)
    }

    /// Counts recipients that an upstream accepted on `days`.
    pub fn relayed_count(&self, upstream: &str, days: RangeInclusive<u16>) -> sled::Result<u64> {
        let (first, last) = (Included((upstream, *days.start())), Included((upstream, *days.end())));
        let mut relayed = 0;
        for row in RelayedCounts::range(self.memtable(), first, last) {
            relayed += row?.row().unwrap_or_default();
        }
        Ok(relayed)
    }

    /// Returns up to `limit` pending DSNs.
    pub fn pending_dsns(&self, limit: usize) -> sled::Result<Vec<ReportedRecipient>> {
        let rows = PendingDsns::scan(self.memtable()).take(limit);
        rows.filter_map(|row| row.map(|row| row.key()).transpose()).collect()
    }

    /// Returns messages with the given Message-ID, newest first.
    pub fn find_by_message_id(&self, message_id: &MessageId, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let mut found = Vec::new();
        for id in MessageIdIndex::newest(self.memtable(), message_id.as_str()) {
            if found.len() == limit {
                break;
            }
            let id = id?;
            let row = Messages::get(self.memtable(), id)?;
            found.extend(row.filter(|row| row.has_message_id(message_id)).map(|_| id));
        }
        Ok(found)
    }

    /// Returns whether a newer message has the same Message-ID and recipient.
    pub fn is_resubmitted(&self, message: &Message, recipient: &Mailbox) -> sled::Result<bool> {
        let Some(message_id) = &message.message_id else { return Ok(false) };
        let (rows, recipient) = (self.memtable(), recipient.to_folded());
        let newer = RecipientIndex::newer_than(rows, &recipient, message.id)
            .take(MAX_NEWER_TO_RECIPIENT)
            .collect::<sled::Result<Vec<_>>>()?;
        if newer.len() < MAX_NEWER_TO_RECIPIENT {
            return MessageIdIndex::contains_any(rows, message_id.as_str(), &newer);
        }
        // A recipient rarely receives many messages in the meantime; if one does, few messages share the
        // Message-ID.
        let newer = MessageIdIndex::newer_than(rows, message_id.as_str(), message.id)
            .take(MAX_NEWER_OF_MESSAGE)
            .collect::<sled::Result<Vec<_>>>()?;
        RecipientIndex::contains_any(rows, &recipient, &newer)
    }

    /// Returns messages to the given recipient, newest first.
    pub fn find_by_recipient(&self, address: &str, limit: usize) -> sled::Result<Vec<TrackingId>> {
        RecipientIndex::newest(self.memtable(), &fold_address(address)).take(limit).collect()
    }

    /// Returns messages about the given Odoo record, newest first.
    pub fn find_by_odoo_record(&self, record: &OdooRecord, limit: usize) -> sled::Result<Vec<TrackingId>> {
        OdooRecordIndex::newest(self.memtable(), &record.to_string()).take(limit).collect()
    }

    /// Searches the newest `searched` messages for a subject that contains `part`, newest first. Also returns
    /// whether there are older messages.
    pub fn find_by_subject(
        &self,
        part: &str,
        limit: usize,
        searched: usize,
    ) -> sled::Result<(Vec<TrackingId>, bool)> {
        let part = part.to_lowercase();
        let (mut found, mut newest) = (Vec::new(), Messages::scan_rev(self.memtable()));
        for row in newest.by_ref().take(searched) {
            let message = row?.row().map(|row| row.message);
            let found_message = message.filter(|message| message.subject().to_lowercase().contains(&part));
            found.extend(found_message.map(|message| message.id()));
            if found.len() == limit {
                return Ok((found, false));
            }
        }
        Ok((found, newest.next().is_some()))
    }

    /// Returns messages from `low` to `high`, newest first.
    pub fn ids_in_range(
        &self,
        low: TrackingId,
        high: TrackingId,
        limit: usize,
    ) -> sled::Result<Vec<TrackingId>> {
        let rows = Messages::range_rev(self.memtable(), Included(low), Included(high));
        rows.filter_map(|row| row.map(|row| row.key()).transpose()).take(limit).collect()
    }
}

/// Newer messages to one recipient, and with one Message-ID, that are compared to find one with both.
const MAX_NEWER_TO_RECIPIENT: usize = 64;
const MAX_NEWER_OF_MESSAGE: usize = 2000;
/// Maximum reads of a trail that changes while it is read.
const MAX_TRAIL_READS: usize = 5;
