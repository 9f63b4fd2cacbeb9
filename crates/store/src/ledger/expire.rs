//! What retention takes out, and what the journal may drop with it.

use crate::journal::Position;
use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::memtable::prefix_range;
use crate::ledger::rows::{MessageRow, decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeMap;
use std::ops::Bound;

impl Ledger {
    /// Sends from `from` on that were accepted, and last tried, before `before`, that nobody waits for, and whose
    /// message `is_gone` from its place in the journal since; and where to go on after `limit` sends, if there is more.
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

    /// Takes out everything about those of the sends that are over since before `before`.
    pub fn expire_messages(&self, sends: &[TrackingId], before: Timestamp) -> sled::Result<()> {
        let mut rows = WriteBatch::new(self.memtable());
        for &id in sends {
            let Some(value) = rows.get(&keys::message_key(id))? else { continue };
            let Some(row) = decode_row::<MessageRow>(&value).filter(|row| row.is_expired(before)) else {
                continue;
            };
            for (number, recipient) in (0u16..).zip(self.load_recipients(id, &row).unwrap_or_default()) {
                rows.delete(keys::index_key(keys::address_prefix(&recipient.address.folded()), id));
                if row.only_recipient.is_none() {
                    rows.delete(keys::recipient_key(id, number));
                }
            }
            for prefix in [keys::trail_prefix(id), keys::pending_dsn_prefix(id)] {
                for row in self.memtable().scan_prefix(&prefix) {
                    rows.delete(row?.0);
                }
            }
            if let Some(send) = row.message.into_domain() {
                for record in &send.odoo_records {
                    rows.delete(keys::index_key(keys::odoo_record_prefix(&record.to_string()), id));
                }
                if let Some(message_id) = &send.message_id {
                    rows.delete(keys::index_key(keys::message_id_prefix(message_id.as_str()), id));
                }
            }
            rows.delete(keys::message_key(id));
        }
        rows.commit(None);
        Ok(())
    }

    /// Keys of rows that only tell what was seen on days before `before`'s, at most `limit`.
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

    /// Keys of events without a send that came before `before`, at most `limit`.
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

    /// Keys of dead letters, and of what replayed reports say, that came before `before`, at most `limit`.
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

    /// Takes rows out.
    pub fn delete_keys(&self, keys: Vec<Vec<u8>>) {
        let mut rows = WriteBatch::new(self.memtable());
        keys.into_iter().for_each(|key| rows.delete(key));
        rows.commit(None);
    }

    /// Bytes of finished messages in each segment of the journal.
    pub fn garbage_by_segment(&self) -> sled::Result<BTreeMap<u32, u64>> {
        let rows = self.memtable().scan_prefix(b"g").map(|row| {
            let (key, value) = row?;
            let segment = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            Ok(segment.zip(decode_row(&value)))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// The journal dropped that many of them.
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

    /// Bytes of all rows. Reads them all: a second or more a million sends.
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
    /// Whether nobody waits for it, and it was last touched before `before`.
    pub fn is_expired(&self, before: Timestamp) -> bool {
        self.queue_entry.is_none() && self.last_changed() < before
    }

    /// When it was accepted or last tried.
    fn last_changed(&self) -> Timestamp {
        self.message.id().timestamp().max(Timestamp::from_millis(self.changed_at))
    }
}
