//! Removes rows past retention, and accounts for the data that the journal may drop with them.

use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::memtable::prefix_range;
use crate::ledger::rows::{MessageRow, decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::position::Position;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeMap;
use std::ops::Bound;

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
        let start = from.map_or_else(|| vec![b'm'], keys::message_key);
        let mut expired = Vec::new();
        for (number, row) in
            self.memtable().range((Bound::Included(start.into()), prefix_range(b"m").1)).enumerate()
        {
            let (key, value) = row?;
            let Some(id) = keys::parse_tracking_id(&key) else { continue };
            if id.timestamp() >= before {
                break;
            }
            if number == limit {
                return Ok((expired, Some(id)));
            }
            let mut may_go = |row: MessageRow| {
                row.is_expired(before) && (row.body_length == 0 || is_gone(row.position, row.last_changed()))
            };
            if decode_row(&value).is_some_and(&mut may_go) {
                expired.push(id);
            }
        }
        Ok((expired, None))
    }

    /// Removes all rows of those messages that have been finished since before `before`.
    pub fn expire_messages(&self, messages: &[TrackingId], before: Timestamp) -> sled::Result<()> {
        let mut rows = WriteBatch::new(self.memtable());
        for &id in messages {
            let Some(value) = rows.get(&keys::message_key(id))? else { continue };
            let Some(row) = decode_row::<MessageRow>(&value).filter(|row| row.is_expired(before)) else {
                continue;
            };
            for (number, recipient) in (0u16..).zip(self.load_recipients(id, &row).unwrap_or_default()) {
                rows.delete(keys::index_key(keys::address_prefix(&recipient.address.to_folded()), id));
                if row.only_recipient.is_none() {
                    rows.delete(keys::recipient_key(id, number));
                }
            }
            for prefix in [keys::trail_prefix(id), keys::pending_dsn_prefix(id)] {
                for row in self.memtable().scan_prefix(&prefix) {
                    rows.delete(row?.0);
                }
            }
            if let Some(message) = row.message.into_domain() {
                for record in &message.odoo_records {
                    rows.delete(keys::index_key(keys::odoo_record_prefix(&record.to_string()), id));
                }
                if let Some(message_id) = &message.message_id {
                    rows.delete(keys::index_key(keys::message_id_prefix(message_id.as_str()), id));
                }
            }
            rows.delete(keys::message_key(id));
        }
        rows.commit(None);
        Ok(())
    }

    /// Returns up to `limit` keys of deduplication rows from days before `before`'s.
    pub fn expired_dated_keys(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for prefix in keys::DATED_PREFIXES {
            for row in self.memtable().scan_prefix(&[prefix]) {
                let (key, _) = row?;
                if expired.len() == limit
                    || keys::parse_day(&key).is_none_or(|day| day >= before.day_number())
                {
                    break;
                }
                expired.push(key.to_vec());
            }
        }
        Ok(expired)
    }

    /// Returns up to `limit` keys of orphaned events received before `before`.
    pub fn expired_orphans(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for row in self.memtable().scan_prefix(b"u") {
            let (key, _) = row?;
            if keys::parse_tracking_id(&key).is_none_or(|report| report.timestamp() < before) {
                expired.push(key.to_vec());
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
        for prefix in keys::DEAD_LETTER_PREFIXES {
            for row in self.memtable().scan_prefix(prefix) {
                let (key, _) = row?;
                if expired.len() == limit
                    || keys::parse_tracking_id(&key).is_none_or(|id| id.timestamp() >= before)
                {
                    break;
                }
                expired.push(key.to_vec());
            }
        }
        Ok(expired)
    }

    /// Deletes rows.
    pub fn delete_keys(&self, keys: Vec<Vec<u8>>) {
        let mut rows = WriteBatch::new(self.memtable());
        keys.into_iter().for_each(|key| rows.delete(key));
        rows.commit(None);
    }

    /// Returns the bytes of finished messages in each segment of the journal.
    pub fn garbage_by_segment(&self) -> sled::Result<BTreeMap<u32, u64>> {
        let rows = self.memtable().scan_prefix(b"g").map(|row| {
            let (key, value) = row?;
            let segment = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            Ok(segment.zip(decode_row(&value)))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// Subtracts bytes that the journal dropped.
    pub fn subtract_garbage(&self, segment: u32, bytes: u64) -> sled::Result<()> {
        let mut rows = WriteBatch::new(self.memtable());
        let key = keys::garbage_key(segment);
        let known: u64 = rows.get(&key)?.as_deref().and_then(decode_row).unwrap_or_default();
        match known.saturating_sub(bytes) {
            0 => rows.delete(key),
            rest => rows.put(key, encode_row(&rest)),
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

impl MessageRow {
    /// Returns whether the message is finished and was last changed before `before`.
    pub fn is_expired(&self, before: Timestamp) -> bool {
        self.queue_entry.is_none() && self.last_changed() < before
    }

    /// Returns the time of acceptance or of the last attempt.
    fn last_changed(&self) -> Timestamp {
        self.message.id().timestamp().max(Timestamp::from_millis(self.changed_at))
    }
}
