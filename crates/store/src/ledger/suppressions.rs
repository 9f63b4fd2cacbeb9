//! Rows of the suppression list: one evidence row per address and list, and the number of suppressed ones.
//! They follow from the journal alone, independently of the configuration.

use crate::address_evidence::AddressEvidence;
use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::memtable::prefix_range;
use crate::ledger::rows::{decode_row, encode_row};
use crate::ledger::write_batch::WriteBatch;
use crate::record::SuppressionEvidenceRow;
use mailtrail_mail::{Mailbox, Pseudonym, Timestamp};
use mailtrail_trail::suppression::{
    EvidenceItem, EvidenceSource, Reason, SuppressionChange, SuppressionEvidence, evidence_from_event,
};
use mailtrail_trail::{EventSource, ProviderEvent, ReceivedEvent};
use sled::IVec;
use std::ops::Bound::Excluded;

/// Adds the evidence of a provider event against its recipient.
pub fn apply_event_evidence(
    rows: &mut WriteBatch<'_>,
    upstream: &str,
    via: EventSource,
    event: &ProviderEvent,
) -> sled::Result<()> {
    let source = match via {
        EventSource::Webhook => EvidenceSource::Webhook,
        EventSource::Poll => EvidenceSource::Poll,
    };
    let Some((address, reason, item)) = evidence_of(event, source) else { return Ok(()) };
    edit_evidence(rows, &address, upstream, |evidence| evidence.add(reason, &item))
}

/// Applies a requested change of the list.
pub fn apply_suppression_change(rows: &mut WriteBatch<'_>, change: &SuppressionChange) -> sled::Result<()> {
    let address = change.address.to_folded();
    // The evidence of an erased address is stored under a different pseudonym.
    if Pseudonym::Trail.is_pseudonym(&address) {
        return Ok(());
    }
    let edit = |evidence: &mut SuppressionEvidence| evidence.apply_change(&change.kind, change.at);
    if let Some(list) = &change.list {
        return edit_evidence(rows, &address, list, edit);
    }
    let mut everywhere = load_evidence(rows, &keys::suppression_key(&address, GLOBAL_LIST))?;
    let before = everywhere.clone();
    edit(&mut everywhere);
    everywhere.prune();
    put_evidence(rows, keys::suppression_key(&address, GLOBAL_LIST), &before, &everywhere)?;
    for (key, value) in rows.scan_prefix(&keys::suppression_address_prefix(&address), usize::MAX)? {
        if keys::parse_suppression_key(&key).is_some_and(|(_, list)| list != GLOBAL_LIST) {
            let before = decode_evidence(&value);
            let mut own = before.clone();
            own.apply_global_clear(&everywhere);
            put_evidence(rows, key.to_vec(), &before, &own)?;
        }
    }
    Ok(())
}

fn edit_evidence(
    rows: &mut WriteBatch<'_>,
    address: &str,
    list: &str,
    edit: impl FnOnce(&mut SuppressionEvidence),
) -> sled::Result<()> {
    let key = keys::suppression_key(address, list);
    let before = load_evidence(rows, &key)?;
    let mut own = before.clone();
    edit(&mut own);
    own.apply_global_clear(&load_evidence(rows, &keys::suppression_key(address, GLOBAL_LIST))?);
    put_evidence(rows, key, &before, &own)
}

fn load_evidence(rows: &WriteBatch<'_>, key: &[u8]) -> sled::Result<SuppressionEvidence> {
    Ok(rows.get(key)?.map_or_else(SuppressionEvidence::default, |value| decode_evidence(&value)))
}

fn decode_evidence(value: &IVec) -> SuppressionEvidence {
    decode_row::<SuppressionEvidenceRow>(value)
        .map_or_else(SuppressionEvidence::default, SuppressionEvidence::from)
}

fn put_evidence(
    rows: &mut WriteBatch<'_>,
    key: Vec<u8>,
    before: &SuppressionEvidence,
    after: &SuppressionEvidence,
) -> sled::Result<()> {
    if before == after {
        return Ok(());
    }
    if before.is_listed() != after.is_listed() {
        let key = keys::suppression_table_prefix();
        let known: u64 = rows.get(&key)?.as_deref().and_then(decode_row).unwrap_or_default();
        let listed = if after.is_listed() { known + 1 } else { known.saturating_sub(1) };
        rows.put(key, encode_row(&listed));
    }
    if after.is_empty() {
        rows.delete(key);
    } else {
        rows.put(key, encode_row(&SuppressionEvidenceRow::from(after)));
    }
    Ok(())
}

/// Derives evidence from an event. The address in the event counts; a later correlation with a message
/// changes nothing.
fn evidence_of(event: &ProviderEvent, source: EvidenceSource) -> Option<(String, Reason, EvidenceItem)> {
    let (reason, item) = evidence_from_event(event, source)?;
    let address: Mailbox = event.recipient.as_ref()?.parse().ok()?;
    if Pseudonym::Trail.is_pseudonym(address.as_str()) {
        return None;
    }
    Some((address.to_folded(), reason, item))
}

impl Ledger {
    /// Returns the evidence for an address (in lower case) on a list.
    pub fn suppression_evidence(
        &self,
        address: &str,
        list: &str,
    ) -> sled::Result<Option<SuppressionEvidence>> {
        Ok(self.memtable().get(&keys::suppression_key(address, list))?.map(|value| decode_evidence(&value)))
    }

    /// Returns up to `limit` evidence rows after `after`, ordered by address and list.
    pub fn list_evidence(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> sled::Result<Vec<AddressEvidence>> {
        let start = after.map_or_else(keys::suppression_table_prefix, |(address, list)| {
            keys::suppression_key(address, list)
        });
        let rows = self
            .memtable()
            .range((Excluded(start.into()), prefix_range(&keys::suppression_table_prefix()).1));
        collect_evidence(rows, limit)
    }

    /// Returns the evidence for one address (in lower case).
    pub fn evidence_for_address(&self, address: &str) -> sled::Result<Vec<AddressEvidence>> {
        collect_evidence(self.memtable().scan_prefix(&keys::suppression_address_prefix(address)), usize::MAX)
    }

    /// Returns the salt by which erased addresses are recognised, if there is one.
    pub fn erasure_salt(&self) -> sled::Result<Option<[u8; 16]>> {
        Ok(self.memtable().get(keys::ERASURE_SALT)?.and_then(|salt| salt.as_ref().try_into().ok()))
    }

    /// Counts the evidence rows that suppress their address.
    pub fn count_suppressed(&self) -> sled::Result<u64> {
        Ok(self
            .memtable()
            .get(&keys::suppression_table_prefix())?
            .as_deref()
            .and_then(decode_row)
            .unwrap_or_default())
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
        for row in self.memtable().scan_prefix(&keys::suppression_table_prefix()) {
            let (key, value) = row?;
            if keys::parse_suppression_key(&key).is_some() && decode_evidence(&value).is_expired(before) {
                expired.push(key.to_vec());
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
            if load_evidence(&rows, &key)?.is_expired(before) {
                rows.delete(key);
            }
        }
        rows.commit(None);
        Ok(())
    }
}

fn collect_evidence(
    rows: impl Iterator<Item = sled::Result<(IVec, IVec)>>,
    limit: usize,
) -> sled::Result<Vec<AddressEvidence>> {
    let mut found = Vec::new();
    for row in rows.take(limit) {
        let (key, value) = row?;
        let file = |(address, list): (&str, &str)| AddressEvidence {
            address: address.to_owned(),
            list: list.to_owned(),
            evidence: decode_evidence(&value),
        };
        found.extend(keys::parse_suppression_key(&key).map(file));
    }
    Ok(found)
}

/// Name of the list that applies to every domain.
const GLOBAL_LIST: &str = "";
