//! Lookups in the ledger.

use crate::ledger::database::Ledger;
use crate::ledger::memtable::{MergedRows, prefix_range};
use crate::ledger::rows::{MessageRow, QueueKeyRow, RecipientRow, TrailEventRow, decode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::ledger::{apply, keys};
use crate::queue_id::QueueId;
use mailtrail_mail::{Mailbox, MessageId, OdooRecord, Timestamp, TrackingId, fold_address};
use mailtrail_trail::{
    AttemptStarted, CorrelatedBy, Message, ProviderEvent, Recipient, ReportedRecipient, Trail, TrailEvent,
};
use std::ops::Bound::{Excluded, Included};
use std::ops::RangeInclusive;
use std::time::Duration;

impl Ledger {
    /// Returns one message and its row.
    pub fn load_message(&self, id: TrackingId) -> sled::Result<Option<(Message, MessageRow)>> {
        let row =
            self.memtable().get(&keys::message_key(id))?.and_then(|value| decode_row::<MessageRow>(&value));
        Ok(row.and_then(|row| Some((row.message.clone().into_domain()?, row))))
    }

    /// Returns whether the message exists.
    pub fn has_message(&self, id: TrackingId) -> sled::Result<bool> {
        self.memtable().contains_key(&keys::message_key(id))
    }

    /// Returns whether an attempt is in progress, or was interrupted.
    pub fn is_sending(&self, id: TrackingId) -> sled::Result<bool> {
        self.memtable().contains_key(&keys::attempt_key(id))
    }

    /// Returns the recipients of a message in the order of the envelope.
    pub fn load_recipients(&self, id: TrackingId, row: &MessageRow) -> sled::Result<Vec<Recipient>> {
        let mut recipients = Vec::with_capacity(usize::from(row.recipient_count));
        for number in 0..row.recipient_count {
            let found = match &row.only_recipient {
                Some(only) => Some(only.clone()),
                None => self
                    .memtable()
                    .get(&keys::recipient_key(id, number))?
                    .and_then(|value| decode_row(&value)),
            };
            // Skipping a damaged row would shift the index of the next recipient.
            let damaged = || sled::Error::ReportableBug(format!("recipient {number} of {id} cannot be read"));
            recipients.push(found.and_then(RecipientRow::into_domain).ok_or_else(damaged)?);
        }
        Ok(recipients)
    }

    /// Returns a consistent snapshot of one message's trail: it is read again if it changed in the meantime.
    pub fn load_trail(&self, id: TrackingId) -> sled::Result<Option<Trail>> {
        let key = keys::message_key(id);
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
        for trail_event in self.memtable().scan_prefix(&keys::trail_prefix(id)) {
            events.extend(decode_row::<TrailEventRow>(&trail_event?.1).map(TrailEvent::from));
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
        let (mut from, end) = prefix_range(b"q");
        let mut queues = Vec::new();
        while let Some(row) = self.memtable().range((from, end.clone())).next() {
            let (key, value) = row?;
            let Some((queue, ..)) = keys::parse_queue_key(&key) else { break };
            if let Some(waits) = decode_row::<QueueKeyRow>(&value) {
                queues.push(QueueId { lane: keys::parse_lane(queue), key: waits.into() });
            }
            // The next queue begins where this one ends.
            from = match prefix_range(queue).1 {
                Excluded(end) => Included(end),
                end => end,
            };
        }
        Ok(queues)
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
        for row in self.memtable().scan_prefix(&queue.key_prefix()) {
            let (key, _) = row?;
            let Some((_, at, id)) = keys::parse_queue_key(&key) else { continue };
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
        let rows = self.memtable().scan_prefix(&queue.key_prefix());
        let due = rows.filter_map(|row| {
            row.map(|(key, _)| keys::parse_queue_key(&key).map(|(_, at, id)| (at, id))).transpose()
        });
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
        for row in self.memtable().scan_prefix(&queue.key_prefix()) {
            let (key, _) = row?;
            let Some((_, due, id)) = keys::parse_queue_key(&key).filter(|(_, due, _)| *due > now) else {
                continue;
            };
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
        let rows = self.memtable().scan_prefix(b"w").map(|row| {
            let (key, value) = row?;
            let begun = |(at, upstream)| {
                Some(AttemptStarted {
                    id: keys::parse_tracking_id(&key)?,
                    at: Timestamp::from_millis(at),
                    upstream,
                })
            };
            Ok(decode_row(&value).and_then(begun))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Returns the operator's reason for keeping the breaker of an upstream open, if it is overridden.
    pub fn breaker_override(&self, upstream: &str) -> sled::Result<Option<String>> {
        let reason = self.memtable().get(&keys::breaker_override_key(upstream))?;
        Ok(reason.map(|reason| String::from_utf8_lossy(&reason).into_owned()))
    }

    /// Returns the time up to which the events of an upstream's provider are complete.
    pub fn poll_cursor(&self, upstream: &str) -> sled::Result<Option<Timestamp>> {
        let until = self.memtable().get(&keys::poll_cursor_key(upstream))?;
        Ok(until.and_then(|until| decode_row(&until)).map(Timestamp::from_millis))
    }

    /// Counts recipients that an upstream accepted on `days`.
    pub fn relayed_count(&self, upstream: &str, days: RangeInclusive<u16>) -> sled::Result<u64> {
        let range = (
            Included(keys::relayed_count_key(upstream, *days.start()).into()),
            Included(keys::relayed_count_key(upstream, *days.end()).into()),
        );
        let mut taken = 0;
        for row in self.memtable().range(range) {
            taken += decode_row::<u64>(&row?.1).unwrap_or_default();
        }
        Ok(taken)
    }

    /// Returns up to `limit` pending DSNs.
    pub fn pending_dsns(&self, limit: usize) -> sled::Result<Vec<ReportedRecipient>> {
        let rows = self.memtable().scan_prefix(b"n").take(limit);
        rows.map(|row| row.map(|(key, _)| keys::parse_pending_dsn_key(&key)))
            .filter_map(Result::transpose)
            .collect()
    }

    /// Returns whether this event was already stored.
    pub fn has_event(&self, upstream: &str, event: &ProviderEvent) -> sled::Result<bool> {
        apply::has_event(&WriteBatch::new(self.memtable()), upstream, event)
    }

    /// Returns the digest of the body that came with a webhook's token.
    pub fn webhook_token(
        &self,
        upstream: &str,
        token: &str,
        signed_at: Timestamp,
    ) -> sled::Result<Option<Vec<u8>>> {
        Ok(self.memtable().get(&keys::token_key(upstream, token, signed_at))?.map(|value| value.to_vec()))
    }

    /// Returns messages with the given Message-ID, newest first.
    pub fn find_by_message_id(&self, message_id: &MessageId, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let mut found = Vec::new();
        for id in ids_of_rows(self.memtable().scan_prefix_rev(&keys::message_id_prefix(message_id.as_str())))
        {
            if found.len() == limit {
                break;
            }
            let id = id?;
            let row =
                self.memtable().get(&keys::message_key(id))?.as_deref().and_then(decode_row::<MessageRow>);
            found.extend(row.filter(|row| row.has_message_id(message_id)).map(|_| id));
        }
        Ok(found)
    }

    /// Returns whether a newer message has the same Message-ID and recipient.
    pub fn is_resubmitted(&self, send: &Message, recipient: &Mailbox) -> sled::Result<bool> {
        let Some(message_id) = &send.message_id else { return Ok(false) };
        let to_recipient = keys::address_prefix(&recipient.to_folded());
        let with_message_id = keys::message_id_prefix(message_id.as_str());
        // A recipient rarely receives many messages in the meantime; if one does, few messages share the
        // Message-ID.
        let newer = self.newer_ids(&to_recipient, send.id, MAX_NEWER_TO_RECIPIENT)?;
        let (newer, other) = match newer.len() {
            MAX_NEWER_TO_RECIPIENT => {
                (self.newer_ids(&with_message_id, send.id, MAX_NEWER_OF_MESSAGE)?, to_recipient)
            }
            _ => (newer, with_message_id),
        };
        for id in newer {
            if self.memtable().get(&keys::index_key(other.clone(), id))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the first messages after `id` in an index.
    fn newer_ids(&self, prefix: &[u8], id: TrackingId, limit: usize) -> sled::Result<Vec<TrackingId>> {
        let after = Excluded(keys::index_key(prefix.to_vec(), id).into());
        let (_, end) = prefix_range(prefix);
        ids_of_rows(self.memtable().range((after, end))).take(limit).collect()
    }

    /// Returns messages to the given recipient, newest first.
    pub fn find_by_recipient(&self, address: &str, limit: usize) -> sled::Result<Vec<TrackingId>> {
        self.indexed_ids(&keys::address_prefix(&fold_address(address)), limit)
    }

    /// Returns messages about the given Odoo record, newest first.
    pub fn find_by_odoo_record(&self, record: &OdooRecord, limit: usize) -> sled::Result<Vec<TrackingId>> {
        self.indexed_ids(&keys::odoo_record_prefix(&record.to_string()), limit)
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
        let (mut found, mut newest) = (Vec::new(), self.memtable().scan_prefix_rev(b"m"));
        for row in newest.by_ref().take(searched) {
            let send = decode_row::<MessageRow>(&row?.1).map(|row| row.message);
            found.extend(
                send.filter(|send| send.subject().to_lowercase().contains(&part)).map(|send| send.id()),
            );
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
        let range = (Included(keys::message_key(low).into()), Included(keys::message_key(high).into()));
        ids_of_rows(self.memtable().range_rev(range)).take(limit).collect()
    }

    /// Returns the message that an event belongs to.
    pub fn correlate(
        &self,
        event: &ProviderEvent,
    ) -> sled::Result<Option<(TrackingId, Vec<u16>, CorrelatedBy)>> {
        let found = apply::correlate(&WriteBatch::new(self.memtable()), event)?;
        Ok(found.map(|found| (found.id, found.recipients, found.correlated_by)))
    }

    fn indexed_ids(&self, prefix: &[u8], limit: usize) -> sled::Result<Vec<TrackingId>> {
        ids_of_rows(self.memtable().scan_prefix_rev(prefix)).take(limit).collect()
    }
}

impl QueueId {
    fn key_prefix(&self) -> Vec<u8> {
        keys::queue_prefix(self.lane, &QueueKeyRow::from(&self.key))
    }
}

/// Newer messages to one recipient, and with one Message-ID, that are compared to find one with both.
const MAX_NEWER_TO_RECIPIENT: usize = 64;
const MAX_NEWER_OF_MESSAGE: usize = 2000;
/// Maximum reads of a trail that changes while it is read.
const MAX_TRAIL_READS: usize = 5;

/// Returns the messages that index rows refer to.
fn ids_of_rows(rows: MergedRows<'_>) -> impl Iterator<Item = sled::Result<TrackingId>> {
    rows.filter_map(|row| row.map(|(key, _)| keys::parse_tracking_id(&key)).transpose())
}
