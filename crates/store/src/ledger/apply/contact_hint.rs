//! Applies contact hints: rows by address, unrelated to the rows of messages.

use crate::ledger::table::Table;
use crate::ledger::tables::{ContactHints, EventDedup};
use crate::ledger::write_batch::WriteBatch;
use crate::record::ReceivedHintV1;
use mailtrail_mail::fold_address;
use mailtrail_trail::ReceivedHint;

/// Stores a new hint. For a hint without an address, only the deduplication row is written. Its key contains
/// the day of the event, which a repeated request names again.
pub fn apply_hint(rows: &mut WriteBatch<'_>, received: &ReceivedHint) -> sled::Result<()> {
    let ReceivedHint { source, received_at, dedup_key, hint } = received;
    if !EventDedup::put_if_absent(rows, (source, dedup_key, hint.at), &())? {
        return Ok(());
    }
    if let Some(address) = &hint.address {
        let key = (&*fold_address(address), *received_at, &**source, &**dedup_key);
        ContactHints::put(rows, key, &ReceivedHintV1::from(received));
    }
    Ok(())
}
