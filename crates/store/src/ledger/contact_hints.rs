//! Hints about contacts: rows by address, which no send's rows know of.

use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::rows::{decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::record::ReceivedHintV1;
use mailtrail_mail::{Timestamp, fold_address};
use mailtrail_trail::ReceivedHint;

/// A hint as its row holds it: as the journal does.
pub type ReceivedHintRow = ReceivedHintV1;

/// Keeps a hint that is not known. One without an address is noted as known only.
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

/// Of the day on which it happened, which the same request names again.
fn dedup_row_key(hinted: &ReceivedHint) -> Vec<u8> {
    keys::event_dedup_key(&hinted.source, &hinted.dedup_key, hinted.hint.at)
}

impl Ledger {
    /// Whether this hint was taken already.
    pub fn has_hint(&self, hinted: &ReceivedHint) -> sled::Result<bool> {
        self.memtable().contains_key(&dedup_row_key(hinted))
    }

    /// Hints about an address, the last to come first. The key has a short hash of it only.
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

    /// Keys of hints that came before `before`, at most `limit`.
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
