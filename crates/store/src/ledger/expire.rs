//! What retention takes out, and what the journal may drop with it.

use crate::journal::Place;
use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::memtable::starting_with;
use crate::ledger::rows::{SendRow, decode, encode};
use crate::ledger::write_batch::Overlay;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeMap;
use std::ops::Bound;

impl Projection {
    /// Sends from `from` on that were accepted, and last tried, before `before`, that nobody waits for, and whose
    /// message `is_gone` from its place in the journal since; and where to go on after `limit` sends, if there is more.
    pub fn expired_sends(
        &self,
        from: Option<TrackingId>,
        before: Timestamp,
        limit: usize,
        is_gone: &mut dyn FnMut(Place, Timestamp) -> bool,
    ) -> sled::Result<(Vec<TrackingId>, Option<TrackingId>)> {
        let start = from.map_or_else(|| vec![b'm'], keys::send);
        let mut expired = Vec::new();
        for (number, row) in
            self.rows().range((Bound::Included(start.into()), starting_with(b"m").1)).enumerate()
        {
            let (key, value) = row?;
            let Some(id) = keys::read_id(&key) else { continue };
            if id.timestamp() >= before {
                break;
            }
            if number == limit {
                return Ok((expired, Some(id)));
            }
            let mut may_go =
                |row: SendRow| row.is_over(before) && (row.body == 0 || is_gone(row.place, row.touched()));
            if decode(&value).is_some_and(&mut may_go) {
                expired.push(id);
            }
        }
        Ok((expired, None))
    }

    /// Takes out everything about those of the sends that are over since before `before`.
    pub fn forget(&self, sends: &[TrackingId], before: Timestamp) -> sled::Result<()> {
        let mut rows = Overlay::new(self.rows());
        for &id in sends {
            let Some(value) = rows.get(&keys::send(id))? else { continue };
            let Some(row) = decode::<SendRow>(&value).filter(|row| row.is_over(before)) else { continue };
            for (number, recipient) in (0u16..).zip(self.recipients(id, &row).unwrap_or_default()) {
                rows.delete(keys::indexed(keys::address(&recipient.address.folded()), id));
                if row.only.is_none() {
                    rows.delete(keys::recipient(id, number));
                }
            }
            for prefix in [keys::facts(id), keys::unreported_of(id)] {
                for row in self.rows().prefixed(&prefix) {
                    rows.delete(row?.0);
                }
            }
            if let Some(send) = row.send.restore() {
                for record in &send.records {
                    rows.delete(keys::indexed(keys::record(&record.to_string()), id));
                }
                if let Some(message_id) = &send.message_id {
                    rows.delete(keys::indexed(keys::message_id(message_id.as_str()), id));
                }
            }
            rows.delete(keys::send(id));
        }
        rows.commit(None);
        Ok(())
    }

    /// Keys of rows that only tell what was seen on days before `before`'s, at most `limit`.
    pub fn expired_days(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for prefix in keys::BY_DAY {
            for row in self.rows().prefixed(&[prefix]) {
                let (key, _) = row?;
                if expired.len() == limit || keys::read_day(&key).is_none_or(|day| day >= before.day()) {
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
        for row in self.rows().prefixed(b"u") {
            let (key, _) = row?;
            if keys::read_id(&key).is_none_or(|report| report.timestamp() < before) {
                expired.push(key.to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }

    /// Keys of dead letters, and of what replayed reports say, that came before `before`, at most `limit`.
    pub fn expired_letters(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for prefix in keys::LETTERS {
            for row in self.rows().prefixed(prefix) {
                let (key, _) = row?;
                if expired.len() == limit || keys::read_id(&key).is_none_or(|id| id.timestamp() >= before) {
                    break;
                }
                expired.push(key.to_vec());
            }
        }
        Ok(expired)
    }

    /// Takes rows out.
    pub fn delete(&self, keys: Vec<Vec<u8>>) {
        let mut rows = Overlay::new(self.rows());
        keys.into_iter().for_each(|key| rows.delete(key));
        rows.commit(None);
    }

    /// Bytes of finished messages in each segment of the journal.
    pub fn garbage(&self) -> sled::Result<BTreeMap<u32, u64>> {
        let rows = self.rows().prefixed(b"g").map(|row| {
            let (key, value) = row?;
            let segment = key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            Ok(segment.zip(decode(&value)))
        });
        rows.filter_map(Result::transpose).collect()
    }

    /// The journal dropped that many of them.
    pub fn dropped(&self, segment: u32, bytes: u64) -> sled::Result<()> {
        let mut rows = Overlay::new(self.rows());
        let key = keys::garbage(segment);
        let known: u64 = rows.get(&key)?.as_deref().and_then(decode).unwrap_or_default();
        match known.saturating_sub(bytes) {
            0 => rows.delete(key),
            rest => rows.put(key, encode(&rest)),
        }
        rows.commit(None);
        Ok(())
    }

    /// Bytes of all rows. Reads them all: a second or more a million sends.
    pub fn live_bytes(&self) -> sled::Result<u64> {
        let mut bytes = 0;
        for row in self.rows().prefixed(b"") {
            let (key, value) = row?;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok(bytes)
    }
}

impl SendRow {
    /// Whether nobody waits for it, and it was last touched before `before`.
    pub fn is_over(&self, before: Timestamp) -> bool {
        self.queued.is_none() && self.touched() < before
    }

    /// When it was accepted or last tried.
    fn touched(&self) -> Timestamp {
        self.send.id().timestamp().max(Timestamp::from_millis(self.changed))
    }
}
