//! Lookups in the suppression list, and the removal of obsolete evidence.

use crate::address_evidence::AddressEvidence;
use crate::ledger::apply::evidence_of;
use crate::ledger::database::Ledger;
use crate::ledger::table::{Table, TableRows};
use crate::ledger::tables::{ErasureSalt, Evidence, SuppressedCount};
use crate::ledger::write_batch::WriteBatch;
use crate::record::SuppressionEvidenceRow;
use mailtrail_mail::Timestamp;
use mailtrail_trail::ReceivedEvent;
use mailtrail_trail::suppression::{EvidenceSource, SuppressionEvidence};
use std::ops::Bound::{Excluded, Unbounded};

impl Ledger {
    /// Returns the evidence for an address (in lower case) on a list.
    pub fn suppression_evidence(
        &self,
        address: &str,
        list: &str,
    ) -> sled::Result<Option<SuppressionEvidence>> {
        Ok(Evidence::get(self.memtable(), (address, list))?.map(SuppressionEvidence::from))
    }

    /// Returns up to `limit` evidence rows after `after`, ordered by address and list.
    pub fn list_evidence(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> sled::Result<Vec<AddressEvidence>> {
        // No address is empty, so this skips the row of the count only.
        let start = after.unwrap_or(("", ""));
        collect_evidence(Evidence::range(self.memtable(), Excluded(start), Unbounded), limit)
    }

    /// Returns the evidence for one address (in lower case).
    pub fn evidence_for_address(&self, address: &str) -> sled::Result<Vec<AddressEvidence>> {
        collect_evidence(Evidence::of_address(self.memtable(), address), usize::MAX)
    }

    /// Returns the salt by which erased addresses are recognised, if there is one.
    pub fn erasure_salt(&self) -> sled::Result<Option<[u8; 16]>> {
        ErasureSalt::get(self.memtable(), ())
    }

    /// Counts the evidence rows that suppress their address.
    pub fn count_suppressed(&self) -> sled::Result<u64> {
        Ok(SuppressedCount::get(self.memtable(), ())?.unwrap_or_default())
    }

    /// Returns whether any evidence is based on that event.
    pub fn is_evidence_source(&self, received_event: &ReceivedEvent) -> sled::Result<bool> {
        let Some((address, reason, item)) = evidence_of(&received_event.event, EvidenceSource::Webhook)
        else {
            return Ok(false);
        };
        let evidence = self.suppression_evidence(&address, &received_event.upstream)?;
        let active = evidence.as_ref().and_then(|evidence| evidence.active_for(reason));
        Ok(active
            .is_some_and(|active| active.times.contains(&item.at) || active.all_mail_at == Some(item.at)))
    }

    /// Returns up to `limit` evidence rows that have been obsolete since before `before`.
    pub fn expired_evidence(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for found in Evidence::scan(self.memtable()) {
            let found = found?;
            if found.key().is_some() && decode_evidence(found.row()).is_expired(before) {
                expired.push(found.encoded_key().to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }

    /// Removes those evidence rows that are still obsolete.
    pub fn expire_evidence(&self, expired: Vec<Vec<u8>>, before: Timestamp) -> sled::Result<()> {
        let mut rows = WriteBatch::new(self.memtable());
        for key in expired {
            let row = rows.get(&key)?.and_then(|row| Evidence::decode(&row));
            if decode_evidence(row).is_expired(before) {
                rows.delete(key);
            }
        }
        rows.commit(None);
        Ok(())
    }
}

fn collect_evidence(rows: TableRows<'_, Evidence>, limit: usize) -> sled::Result<Vec<AddressEvidence>> {
    let mut found = Vec::new();
    for row in rows.take(limit) {
        let row = row?;
        let file = |(address, list): (&str, &str)| AddressEvidence {
            address: address.to_owned(),
            list: list.to_owned(),
            evidence: decode_evidence(row.row()),
        };
        found.extend(row.key().map(file));
    }
    Ok(found)
}

fn decode_evidence(row: Option<SuppressionEvidenceRow>) -> SuppressionEvidence {
    row.map(SuppressionEvidence::from).unwrap_or_default()
}
