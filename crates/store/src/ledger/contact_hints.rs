//! Hints about contacts: rows by address, which no send's rows know of.

use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::rows::{decode, encode};
use crate::ledger::write_batch::Overlay;
use crate::record::HintedV1;
use mailtrail_mail::{Timestamp, fold_address};
use mailtrail_trail::Hinted;

/// A hint as its row holds it: as the journal does.
pub type HintRow = HintedV1;

/// Keeps a hint that is not known. One without an address is noted as known only.
pub fn apply(rows: &mut Overlay<'_>, hinted: &Hinted) -> sled::Result<()> {
    let known = known(hinted);
    if rows.get(&known)?.is_some() {
        return Ok(());
    }
    rows.put(known, Vec::new());
    if let Some(address) = &hinted.hint.address {
        let key = keys::hint(&fold_address(address), hinted.received, &hinted.source, &hinted.identity);
        rows.put(key, encode(&HintRow::from(hinted)));
    }
    Ok(())
}

/// Of the day on which it happened, which the same request names again.
fn known(hinted: &Hinted) -> Vec<u8> {
    keys::event(&hinted.source, &hinted.identity, hinted.hint.at)
}

impl Projection {
    /// Whether this hint was taken already.
    pub fn knows_hint(&self, hinted: &Hinted) -> sled::Result<bool> {
        self.rows().has(&known(hinted))
    }

    /// Hints about an address, the last to come first. The key has a short hash of it only.
    pub fn hints(&self, address: &str, limit: usize) -> sled::Result<Vec<Hinted>> {
        let folded = fold_address(address);
        let rows = self.rows().prefixed_back(&keys::hints(&folded));
        let hints = rows.filter_map(|row| row.map(|(_, value)| decode::<HintRow>(&value)).transpose());
        let same =
            |hinted: &Hinted| hinted.hint.address.as_ref().is_some_and(|known| fold_address(known) == folded);
        hints
            .map(|row| row.map(HintRow::restore))
            .filter(|hinted| hinted.as_ref().map_or(true, same))
            .take(limit)
            .collect()
    }

    /// Keys of hints that came before `before`, at most `limit`.
    pub fn expired_hints(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for row in self.rows().prefixed(b"h") {
            let (key, value) = row?;
            if decode(&value).is_none_or(|row: HintRow| row.received() < before) {
                expired.push(key.to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }
}
