//! The suppression list: evidence by address, including erased addresses.

use crate::address_evidence::AddressEvidence;
use crate::commit_command::{CommitError, CommitOptions};
use crate::read_error::ReadError;
use crate::record::Record;
use crate::store::Store;
use bytes::Bytes;
use mailtrail_mail::{Pseudonym, domain_to_unicode, fold_address};
use mailtrail_trail::suppression::{SuppressionChange, SuppressionChangeKind, SuppressionEvidence};
use std::borrow::Cow;

impl Store {
    /// Records that an address is added to a suppression list or removed from it; lookups see it on return. A
    /// removal also covers the entry of the erased address.
    pub async fn change_suppression(&self, change: SuppressionChange) -> Result<(), CommitError> {
        let erased = match &change.kind {
            SuppressionChangeKind::Remove { .. } => {
                self.erased_keys(&change.address.to_folded()).unwrap_or_default()
            }
            SuppressionChangeKind::Add { .. } => Vec::new(),
        };
        for address in erased.iter().filter_map(|name| name.parse().ok()) {
            self.commit_suppression_change(SuppressionChange { address, ..change.clone() }).await?;
        }
        self.commit_suppression_change(change).await
    }

    async fn commit_suppression_change(&self, change: SuppressionChange) -> Result<(), CommitError> {
        self.0
            .commit(Record::SuppressionChange(Box::new(change)), Bytes::new(), CommitOptions::URGENT_APPLIED)
            .await
    }

    /// Returns the evidence for a folded address on a list: an upstream's, or the unnamed list that applies
    /// to every domain. Evidence from before an erasure of the address is included.
    pub fn suppression_evidence(
        &self,
        address: &str,
        list: &str,
    ) -> Result<Option<SuppressionEvidence>, ReadError> {
        let ledger = self.0.ledger()?;
        let mut known = ledger.suppression_evidence(address, list)?;
        for name in self.erased_keys(address)? {
            match (&mut known, ledger.suppression_evidence(&name, list)?) {
                (Some(known), Some(before)) => known.merge(&before),
                (known, before) => *known = known.take().or(before),
            }
        }
        Ok(known)
    }

    /// Returns all evidence for an address, including that from before its erasure.
    pub fn evidence_for_address(&self, address: &str) -> Result<Vec<AddressEvidence>, ReadError> {
        let address = fold_address(address);
        let mut filed = self.0.ledger()?.evidence_for_address(&address)?;
        for name in self.erased_keys(&address)? {
            filed.extend(self.0.ledger()?.evidence_for_address(&name)?);
        }
        Ok(filed)
    }

    /// Returns the suppression list's names for a folded address that was erased, if any address was. There
    /// are several, since earlier versions erased an address with its domain as written.
    fn erased_keys(&self, address: &str) -> Result<Vec<String>, ReadError> {
        let Some(salt) = self.0.ledger()?.erasure_salt()? else { return Ok(Vec::new()) };
        let mut spellings = vec![Cow::Borrowed(address)];
        spellings.extend(Some(domain_to_unicode(address)).filter(|other| *other != address));
        Ok(spellings.iter().map(|address| Pseudonym::Suppression.derive(address, &salt)).collect())
    }

    /// Returns up to `limit` pieces of evidence after an address and a list, ordered by address.
    pub fn list_evidence(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<AddressEvidence>, ReadError> {
        Ok(self.0.ledger()?.list_evidence(after, limit)?)
    }

    /// Counts the evidence that suppresses its address; soft bounces alone do not.
    pub fn count_suppressed(&self) -> Result<u64, ReadError> {
        Ok(self.0.ledger()?.count_suppressed()?)
    }
}
