//! Removes rows past retention, and accounts for the data that the journal may drop with them.

use crate::ledger::database::Ledger;
use crate::ledger::rows::MessageRow;
use crate::ledger::table::{Table, TableRow};
use crate::ledger::tables::{
    DeadLetters, EventDedup, MessageIdIndex, Messages, OdooRecordIndex, Orphans, PendingDsns, RecipientIndex,
    Recipients, ReplayedEvents, SegmentGarbage, TrailEvents, WebhookTokens,
};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

impl Ledger {
    /// Returns finished messages from `from` on that were accepted and last attempted before `before`, and
    /// with a body that `is_gone` from its position in the journal. Also returns the id to continue from after
    /// `limit` messages.
    pub fn expired_messages(
        &self,
        from: Option<TrackingId>,
        before: Timestamp,
        limit: usize,
        is_gone: &mut dyn FnMut(Position, Timestamp) -> bool,
    ) -> sled::Result<(Vec<TrackingId>, Option<TrackingId>)> {
        let start = from.map_or(Unbounded, Included);
        let mut expired = Vec::new();
        for (number, found) in Messages::range(self.memtable(), start, Unbounded).enumerate() {
            let found = found?;
            let Some(id) = found.key() else { continue };
            if id.timestamp() >= before {
                break;
            }
            if number == limit {
                return Ok((expired, Some(id)));
            }
            let mut may_go = |row: MessageRow| {
                row.is_expired(before) && (row.body_length == 0 || is_gone(row.position, row.last_changed()))
            };
            if found.row().is_some_and(&mut may_go) {
                expired.push(id);
            }
        }
        Ok((expired, None))
    }

    /// Removes all rows of those messages that have been finished since before `before`.
    pub fn expire_messages(&self, messages: &[TrackingId], before: Timestamp) -> sled::Result<()> {
        let mut rows = WriteBatch::new(self.memtable());
        for &id in messages {
            let row = Messages::get(&rows, id)?;
            let Some(row) = row.filter(|row| row.is_expired(before)) else { continue };
            for (index, recipient) in (0u16..).zip(self.load_recipients(id, &row).unwrap_or_default()) {
                RecipientIndex::delete(&mut rows, (&recipient.address.to_folded(), id));
                if row.only_recipient.is_none() {
                    Recipients::delete(&mut rows, (id, index));
                }
            }
            for found in TrailEvents::of_message(self.memtable(), id) {
                rows.delete(found?.encoded_key().clone());
            }
            for found in PendingDsns::of_message(self.memtable(), id) {
                rows.delete(found?.encoded_key().clone());
            }
            if let Some(message) = row.message.into_domain() {
                for record in &message.odoo_records {
                    OdooRecordIndex::delete(&mut rows, (&record.to_string(), id));
                }
                if let Some(message_id) = &message.message_id {
                    MessageIdIndex::delete(&mut rows, (message_id.as_str(), id));
                }
            }
            Messages::delete(&mut rows, id);
        }
        rows.commit(None);
        Ok(())
    }

    /// Returns up to `limit` keys of deduplication rows from days before `before`'s.
    pub fn expired_dated_keys(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        let is_old = |day: u16| day < before.day_number();
        collect_while(
            EventDedup::scan(self.memtable()),
            |row| row.key().is_some_and(is_old),
            limit,
            &mut expired,
        )?;
        collect_while(
            WebhookTokens::scan(self.memtable()),
            |row| row.key().is_some_and(is_old),
            limit,
            &mut expired,
        )?;
        Ok(expired)
    }

    /// Returns up to `limit` keys of orphaned events received before `before`.
    pub fn expired_orphans(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for found in Orphans::scan(self.memtable()) {
            let found = found?;
            if found.key().is_none_or(|event_id| event_id.timestamp() < before) {
                expired.push(found.encoded_key().to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }

    /// Returns up to `limit` keys of dead letters and of replayed events received before `before`.
    pub fn expired_dead_letters(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        let is_old = |id: TrackingId| id.timestamp() < before;
        collect_while(
            DeadLetters::scan(self.memtable()),
            |row| row.key().is_some_and(is_old),
            limit,
            &mut expired,
        )?;
        collect_while(
            ReplayedEvents::scan(self.memtable()),
            |row| row.key().is_some_and(is_old),
            limit,
            &mut expired,
        )?;
        Ok(expired)
    }

    /// Deletes rows by their keys.
    pub fn delete_keys(&self, keys: Vec<Vec<u8>>) {
        let mut rows = WriteBatch::new(self.memtable());
        keys.into_iter().for_each(|key| rows.delete(key));
        rows.commit(None);
    }

    /// Returns the bytes of finished messages in each segment of the journal.
    pub fn garbage_by_segment(&self) -> sled::Result<BTreeMap<u32, u64>> {
        let rows = SegmentGarbage::scan(self.memtable()).map(|found| {
            let found = found?;
            Ok(found.key().zip(found.row()))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Subtracts bytes that the journal dropped.
    pub fn subtract_garbage(&self, segment: u32, bytes: u64) -> sled::Result<()> {
        let mut rows = WriteBatch::new(self.memtable());
        let known = SegmentGarbage::get(&rows, segment)?.unwrap_or_default();
        match known.saturating_sub(bytes) {
            0 => SegmentGarbage::delete(&mut rows, segment),
            rest => SegmentGarbage::put(&mut rows, segment, &rest),
        }
        rows.commit(None);
        Ok(())
    }

    /// Returns the size of all rows, in bytes. Reads all of them: 1 s or more per million messages.
    pub fn live_bytes(&self) -> sled::Result<u64> {
        let mut bytes = 0;
        for row in self.memtable().scan_prefix(b"") {
            let (key, value) = row?;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok(bytes)
    }
}

/// Adds the keys of the first rows that are `expired`, until `keys` holds `limit`.
fn collect_while<T: Table>(
    rows: impl Iterator<Item = sled::Result<TableRow<T>>>,
    expired: impl Fn(&TableRow<T>) -> bool,
    limit: usize,
    keys: &mut Vec<Vec<u8>>,
) -> sled::Result<()> {
    for row in rows {
        let row = row?;
        if keys.len() == limit || !expired(&row) {
            break;
        }
        keys.push(row.encoded_key().to_vec());
    }
    Ok(())
}
