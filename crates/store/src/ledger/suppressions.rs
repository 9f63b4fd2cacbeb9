//! The rows of the suppression list: a dossier for each address and list, and how many of them speak against their
//! address. They follow from the journal alone, whatever is configured.

use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::memtable::starting_with;
use crate::ledger::rows::{decode, encode};
use crate::ledger::write_batch::Overlay;
use crate::record::DossierRow;
use crate::suppressions::Filed;
use mailtrail_mail::{Mailbox, Pseudonym, Timestamp};
use mailtrail_trail::suppression::{Dossier, Listing, Mark, Reason, Source, of_event};
use mailtrail_trail::{Event, Notice, Via};
use sled::IVec;
use std::ops::Bound::Excluded;

/// Takes in what a provider's report says against its recipient.
pub fn report(rows: &mut Overlay<'_>, upstream: &str, via: Via, event: &Event) -> sled::Result<()> {
    let source = match via {
        Via::Webhook => Source::Webhook,
        Via::Poll => Source::Poll,
    };
    let Some((address, reason, mark)) = evidence(event, source) else { return Ok(()) };
    change(rows, &address, upstream, |dossier| dossier.add(reason, &mark))
}

/// Does as somebody wants the list to be.
pub fn listing(rows: &mut Overlay<'_>, listing: &Listing) -> sled::Result<()> {
    let address = listing.address.folded();
    // What was listed stands there under another name.
    if Pseudonym::Trail.fits(&address) {
        return Ok(());
    }
    let edit = |dossier: &mut Dossier| dossier.change(&listing.change, listing.at);
    if let Some(list) = &listing.list {
        return change(rows, &address, list, edit);
    }
    let mut everywhere = read(rows, &keys::dossier(&address, EVERYWHERE))?;
    let before = everywhere.clone();
    edit(&mut everywhere);
    everywhere.tidy();
    put(rows, keys::dossier(&address, EVERYWHERE), &before, &everywhere)?;
    for (key, value) in rows.scan(&keys::dossiers(&address), usize::MAX)? {
        if keys::read_dossier(&key).is_some_and(|(_, list)| list != EVERYWHERE) {
            let before = restore(&value);
            let mut own = before.clone();
            own.under(&everywhere);
            put(rows, key.to_vec(), &before, &own)?;
        }
    }
    Ok(())
}

fn change(
    rows: &mut Overlay<'_>,
    address: &str,
    list: &str,
    edit: impl FnOnce(&mut Dossier),
) -> sled::Result<()> {
    let key = keys::dossier(address, list);
    let before = read(rows, &key)?;
    let mut own = before.clone();
    edit(&mut own);
    own.under(&read(rows, &keys::dossier(address, EVERYWHERE))?);
    put(rows, key, &before, &own)
}

fn read(rows: &Overlay<'_>, key: &[u8]) -> sled::Result<Dossier> {
    Ok(rows.get(key)?.map_or_else(Dossier::default, |value| restore(&value)))
}

fn restore(value: &IVec) -> Dossier {
    decode::<DossierRow>(value).map_or_else(Dossier::default, Dossier::from)
}

fn put(rows: &mut Overlay<'_>, key: Vec<u8>, before: &Dossier, after: &Dossier) -> sled::Result<()> {
    if before == after {
        return Ok(());
    }
    if before.is_listed() != after.is_listed() {
        let key = keys::listed();
        let known: u64 = rows.get(&key)?.as_deref().and_then(decode).unwrap_or_default();
        let listed = if after.is_listed() { known + 1 } else { known.saturating_sub(1) };
        rows.put(key, encode(&listed));
    }
    if after.is_empty() {
        rows.delete(key);
    } else {
        rows.put(key, encode(&DossierRow::from(after)));
    }
    Ok(())
}

/// An event counts by the address that it names itself: the send that it may find later changes nothing about that.
fn evidence(event: &Event, source: Source) -> Option<(String, Reason, Mark)> {
    let (reason, mark) = of_event(event, source)?;
    let address: Mailbox = event.recipient.as_ref()?.parse().ok()?;
    if Pseudonym::Trail.fits(address.as_str()) {
        return None;
    }
    Some((address.folded(), reason, mark))
}

impl Projection {
    /// What is known of an address (in lower case) on a list.
    pub fn dossier(&self, address: &str, list: &str) -> sled::Result<Option<Dossier>> {
        Ok(self.rows().get(&keys::dossier(address, list))?.map(|value| restore(&value)))
    }

    /// Dossiers behind `after`, in the order of addresses and lists, at most `limit`.
    pub fn dossiers(&self, after: Option<(&str, &str)>, limit: usize) -> sled::Result<Vec<Filed>> {
        let start = after.map_or_else(keys::listed, |(address, list)| keys::dossier(address, list));
        let rows = self.rows().range((Excluded(start.into()), starting_with(&keys::listed()).1));
        filed(rows, limit)
    }

    /// Those of one address (in lower case).
    pub fn dossiers_of(&self, address: &str) -> sled::Result<Vec<Filed>> {
        filed(self.rows().prefixed(&keys::dossiers(address)), usize::MAX)
    }

    /// What erased addresses are known by, once there is one.
    pub fn salt(&self) -> sled::Result<Option<[u8; 16]>> {
        Ok(self.rows().get(keys::SALT)?.and_then(|salt| salt.as_ref().try_into().ok()))
    }

    /// Dossiers that speak against their address.
    pub fn listed(&self) -> sled::Result<u64> {
        Ok(self.rows().get(&keys::listed())?.as_deref().and_then(decode).unwrap_or_default())
    }

    /// Whether a dossier rests on that report.
    pub fn rests_on(&self, notice: &Notice) -> sled::Result<bool> {
        let Some((address, reason, mark)) = evidence(&notice.event, Source::Webhook) else {
            return Ok(false);
        };
        let dossier = self.dossier(&address, &notice.upstream)?;
        let live = dossier.as_ref().and_then(|dossier| dossier.live_of(reason));
        Ok(live.is_some_and(|live| live.times.contains(&mark.at) || live.all_mail == Some(mark.at)))
    }

    /// Dossiers of which nothing is needed any more since before `before`, at most `limit`.
    pub fn expired_dossiers(&self, before: Timestamp, limit: usize) -> sled::Result<Vec<Vec<u8>>> {
        let mut expired = Vec::new();
        for row in self.rows().prefixed(&keys::listed()) {
            let (key, value) = row?;
            if keys::read_dossier(&key).is_some() && restore(&value).is_over(before) {
                expired.push(key.to_vec());
            }
            if expired.len() == limit {
                break;
            }
        }
        Ok(expired)
    }

    /// Takes those of them out that are still over.
    pub fn forget_dossiers(&self, expired: Vec<Vec<u8>>, before: Timestamp) -> sled::Result<()> {
        let mut rows = Overlay::new(self.rows());
        for key in expired {
            if read(&rows, &key)?.is_over(before) {
                rows.delete(key);
            }
        }
        rows.commit(None);
        Ok(())
    }
}

fn filed(rows: impl Iterator<Item = sled::Result<(IVec, IVec)>>, limit: usize) -> sled::Result<Vec<Filed>> {
    let mut found = Vec::new();
    for row in rows.take(limit) {
        let (key, value) = row?;
        let file = |(address, list): (&str, &str)| Filed {
            address: address.to_owned(),
            list: list.to_owned(),
            dossier: restore(&value),
        };
        found.extend(keys::read_dossier(&key).map(file));
    }
    Ok(found)
}

/// The name of the list that holds for every domain.
const EVERYWHERE: &str = "";
