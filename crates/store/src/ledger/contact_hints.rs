//! Contact hints: rows by address, unrelated to the rows of messages.

use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::rows::{decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::record::ReceivedHintV1;
use mailtrail_mail::{Timestamp, fold_address};
use mailtrail_trail::ReceivedHint;

/// Row of a hint; the same form as in the journal.
pub type ReceivedHintRow = ReceivedHintV1;

/// Stores a new hint. For a hint without an address, only the deduplication row is written.
pub fn apply_hint(rows: &mut WriteBatch<'_>, hinted: &ReceivedHint) -> sled::Result<()> {
    let known = dedup_row_key(hinted);
    if rows.get(&known)?.is_some() {
        return Ok(());
    }
    rows.put(known, Vec::new());
    if let Some(address) = &hinted.hint.address {
        let key =
            keys::hint_key(&fold_address(address), hinted.received_at, &hinted.source, &hinted.dedup_key);
        rows.put(key, encode_row(&ReceivedHintRow::from(hinted)));
    }
    Ok(())
}

/// Returns the deduplication key. It contains the day of the event, which a repeated request names again.
fn dedup_row_key(hinted: &ReceivedHint) -> Vec<u8> {
    keys::event_dedup_key(&hinted.source, &hinted.dedup_key, hinted.hint.at)
}

impl Ledger {
    /// Returns whether this hint was already stored.
    pub fn has_hint(&self, hinted: &ReceivedHint) -> sled::Result<bool> {
        self.memtable().contains_key(&dedup_row_key(hinted))
    }

    /// Returns hints about an address, the latest received first. The key has only a short hash of the
    /// address.
    pub fn find_hints(&self, address: &str, limit: usize) -> sled::Result<Vec<ReceivedHint>> {
        let folded = fold_address(address);
        let rows = self.memtable().scan_prefix_rev(&keys::hint_prefix(&folded));
        let hints =
            rows.filter_map(|row| row.map(|(_, value)| decode_row::<ReceivedHintRow>(&value)).transpose());
        let same = |hinted: &ReceivedHint| {
            hinted.hint.address.as_ref().is_some_and(|known| fold_address(known) == folded)
        };
        hints
            .map(|row| row.map(ReceivedHintRow::into_domain))
            .filter(|hinted| hinted.as_ref().map_or(true, same))
            .take(limit)
            .collect()
    }

    /// Returns up to `limit` keys of hints received before `before`.
    pub fn expired_hints(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for row in self.memtable().scan_prefix(b"h") {
            let (key, value) = row?;
            if decode_row(&value).is_none_or(|row: ReceivedHintRow| row.received_at() < before) {
                expired.push(key.to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }
}
