use super::commit::{CommitError, Wish};
use super::record::Record;
use super::{ReadError, Store};
use crate::suppression::{Dossier, Listing};
use bytes::Bytes;

/// A dossier with where it belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Filed {
    /// The address, in lower case.
    pub address: String,
    /// The list, by its upstream's name; empty: the one that holds for every domain.
    pub list: String,
    /// What is known.
    pub dossier: Dossier,
}

impl Store {
    /// Notes that an address is to be put on a suppression list or taken off; lookups see it on return.
    pub async fn list(&self, listing: Listing) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Listing(Box::new(listing)), Bytes::new(), wish).await
    }

    /// What is known of an address (in lower case) on a list: an upstream's, or the one that holds for every domain,
    /// which has no name.
    pub fn dossier(&self, address: &str, list: &str) -> Result<Option<Dossier>, ReadError> {
        Ok(self.projection().dossier(address, list)?)
    }

    /// All that is known of an address.
    pub fn dossiers_of(&self, address: &str) -> Result<Vec<Filed>, ReadError> {
        Ok(self.projection().dossiers_of(&address.to_lowercase())?)
    }

    /// What is known of addresses, in their order, behind an address and a list; at most `limit`.
    pub fn dossiers(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<Filed>, ReadError> {
        Ok(self.projection().dossiers(after, limit)?)
    }

    /// Dossiers that speak against their address; soft bounces alone do not.
    pub fn listed(&self) -> Result<u64, ReadError> {
        Ok(self.projection().listed()?)
    }
}
