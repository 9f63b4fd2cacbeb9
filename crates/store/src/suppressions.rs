use crate::group_commit::{CommitError, CommitOptions};
use crate::record::Record;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::{Pseudonym, fold_address, in_unicode};
use mailtrail_trail::suppression::{SuppressionChange, SuppressionChangeKind, SuppressionEvidence};
use std::borrow::Cow;

/// A dossier with where it belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressEvidence {
    /// The address, folded.
    pub address: String,
    /// The list, by its upstream's name; empty: the one that holds for every domain.
    pub list: String,
    /// What is known.
    pub evidence: SuppressionEvidence,
}

impl AddressEvidence {
    /// Whether its address was erased: it can only be recognised, and nobody else can be told of it.
    pub fn is_erased(&self) -> bool {
        Pseudonym::Listed.fits(&self.address)
    }
}

impl Store {
    /// Notes that an address is to be put on a suppression list or taken off; lookups see it on return. One that was
    /// erased is taken off, too.
    pub async fn change_suppression(&self, listing: SuppressionChange) -> Result<(), CommitError> {
        let erased = match &listing.kind {
            SuppressionChangeKind::Remove { .. } => {
                self.erased_keys(&listing.address.folded()).unwrap_or_default()
            }
            SuppressionChangeKind::Add { .. } => Vec::new(),
        };
        for address in erased.iter().filter_map(|name| name.parse().ok()) {
            self.commit_suppression_change(SuppressionChange { address, ..listing.clone() }).await?;
        }
        self.commit_suppression_change(listing).await
    }

    async fn commit_suppression_change(&self, listing: SuppressionChange) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::SuppressionChange(Box::new(listing)), Bytes::new(), wish).await
    }

    /// What is known of a folded address on a list: an upstream's, or the one that holds for every domain,
    /// which has no name. What is known from before it was erased belongs to it.
    pub fn suppression_evidence(
        &self,
        address: &str,
        list: &str,
    ) -> Result<Option<SuppressionEvidence>, ReadError> {
        let projection = self.ledger()?;
        let mut known = projection.suppression_evidence(address, list)?;
        for name in self.erased_keys(address)? {
            match (&mut known, projection.suppression_evidence(&name, list)?) {
                (Some(known), Some(before)) => known.merge(&before),
                (known, before) => *known = known.take().or(before),
            }
        }
        Ok(known)
    }

    /// All that is known of an address, with what is known from before it was erased.
    pub fn evidence_for_address(&self, address: &str) -> Result<Vec<AddressEvidence>, ReadError> {
        let address = fold_address(address);
        let mut filed = self.ledger()?.evidence_for_address(&address)?;
        for name in self.erased_keys(&address)? {
            filed.extend(self.ledger()?.evidence_for_address(&name)?);
        }
        Ok(filed)
    }

    /// What a folded address stands under on the suppression list once it was erased, where any was: earlier versions
    /// erased it with its domain as it was written.
    fn erased_keys(&self, address: &str) -> Result<Vec<String>, ReadError> {
        let Some(salt) = self.ledger()?.erasure_salt()? else { return Ok(Vec::new()) };
        let mut spellings = vec![Cow::Borrowed(address)];
        spellings.extend(Some(in_unicode(address)).filter(|other| *other != address));
        Ok(spellings.iter().map(|address| Pseudonym::Listed.of(address, &salt)).collect())
    }

    /// What is known of addresses, in their order, behind an address and a list; at most `limit`.
    pub fn list_evidence(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<AddressEvidence>, ReadError> {
        Ok(self.ledger()?.list_evidence(after, limit)?)
    }

    /// Dossiers that speak against their address; soft bounces alone do not.
    pub fn count_suppressed(&self) -> Result<u64, ReadError> {
        Ok(self.ledger()?.count_suppressed()?)
    }
}
