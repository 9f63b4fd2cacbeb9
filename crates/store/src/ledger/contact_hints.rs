//! Lookups of contact hints.

use crate::ledger::database::Ledger;
use crate::ledger::table::Table;
use crate::ledger::tables::{ContactHints, EventDedup};
use crate::record::ReceivedHintV1;
use mailtrail_mail::{Timestamp, fold_address};
use mailtrail_trail::ReceivedHint;

impl Ledger {
    /// Returns whether this hint was already stored.
    pub fn has_hint(&self, hinted: &ReceivedHint) -> sled::Result<bool> {
        EventDedup::contains(self.memtable(), (&hinted.source, &hinted.dedup_key, hinted.hint.at))
    }

    /// Returns hints about an address, the latest received first. The key has only a short hash of the
    /// address.
    pub fn find_hints(&self, address: &str, limit: usize) -> sled::Result<Vec<ReceivedHint>> {
        let folded = fold_address(address);
        let rows = ContactHints::newest(self.memtable(), &folded);
        let hints = rows.filter_map(|found| found.map(|found| found.row()).transpose());
        let same = |hinted: &ReceivedHint| {
            hinted.hint.address.as_ref().is_some_and(|known| fold_address(known) == folded)
        };
        hints
            .map(|row| row.map(ReceivedHintV1::into_domain))
            .filter(|hinted| hinted.as_ref().map_or(true, same))
            .take(limit)
            .collect()
    }

    /// Returns up to `limit` keys of hints received before `before`.
    pub fn expired_hints(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for found in ContactHints::scan(self.memtable()) {
            let found = found?;
            if found.row().is_none_or(|row| row.received_at() < before) {
                expired.push(found.encoded_key().to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }
}
