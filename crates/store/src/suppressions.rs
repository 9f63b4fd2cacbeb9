use crate::group_commit::{CommitError, Wish};
use crate::record::Record;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::{Pseudonym, fold_address, in_unicode};
use mailtrail_trail::suppression::{Change, Dossier, Listing};
use std::borrow::Cow;

/// A dossier with where it belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Filed {
    /// The address, folded.
    pub address: String,
    /// The list, by its upstream's name; empty: the one that holds for every domain.
    pub list: String,
    /// What is known.
    pub dossier: Dossier,
}

impl Filed {
    /// Whether its address was erased: it can only be recognised, and nobody else can be told of it.
    pub fn is_erased(&self) -> bool {
        Pseudonym::Listed.fits(&self.address)
    }
}

impl Store {
    /// Notes that an address is to be put on a suppression list or taken off; lookups see it on return. One that was
    /// erased is taken off, too.
    pub async fn list(&self, listing: Listing) -> Result<(), CommitError> {
        let erased = match &listing.change {
            Change::Remove { .. } => self.names_when_erased(&listing.address.folded()).unwrap_or_default(),
            Change::Add { .. } => Vec::new(),
        };
        for address in erased.iter().filter_map(|name| name.parse().ok()) {
            self.commit_listing(Listing { address, ..listing.clone() }).await?;
        }
        self.commit_listing(listing).await
    }

    async fn commit_listing(&self, listing: Listing) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Listing(Box::new(listing)), Bytes::new(), wish).await
    }

    /// What is known of a folded address on a list: an upstream's, or the one that holds for every domain,
    /// which has no name. What is known from before it was erased belongs to it.
    pub fn dossier(&self, address: &str, list: &str) -> Result<Option<Dossier>, ReadError> {
        let projection = self.projection()?;
        let mut known = projection.dossier(address, list)?;
        for name in self.names_when_erased(address)? {
            match (&mut known, projection.dossier(&name, list)?) {
                (Some(known), Some(before)) => known.join(&before),
                (known, before) => *known = known.take().or(before),
            }
        }
        Ok(known)
    }

    /// All that is known of an address, with what is known from before it was erased.
    pub fn dossiers_of(&self, address: &str) -> Result<Vec<Filed>, ReadError> {
        let address = fold_address(address);
        let mut filed = self.projection()?.dossiers_of(&address)?;
        for name in self.names_when_erased(&address)? {
            filed.extend(self.projection()?.dossiers_of(&name)?);
        }
        Ok(filed)
    }

    /// What a folded address stands under on the suppression list once it was erased, where any was: earlier versions
    /// erased it with its domain as it was written.
    fn names_when_erased(&self, address: &str) -> Result<Vec<String>, ReadError> {
        let Some(salt) = self.projection()?.salt()? else { return Ok(Vec::new()) };
        let mut spellings = vec![Cow::Borrowed(address)];
        spellings.extend(Some(in_unicode(address)).filter(|other| *other != address));
        Ok(spellings.iter().map(|address| Pseudonym::Listed.of(address, &salt)).collect())
    }

    /// What is known of addresses, in their order, behind an address and a list; at most `limit`.
    pub fn dossiers(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<Filed>, ReadError> {
        Ok(self.projection()?.dossiers(after, limit)?)
    }

    /// Dossiers that speak against their address; soft bounces alone do not.
    pub fn listed(&self) -> Result<u64, ReadError> {
        Ok(self.projection()?.listed()?)
    }
}
