//! Applies evidence for suppressing an address. The rows follow from the journal alone, independently of the
//! configuration.

use crate::ledger::table::Table;
use crate::ledger::tables::{Evidence, SuppressedCount};
use crate::ledger::write_batch::WriteBatch;
use crate::record::SuppressionEvidenceRow;
use mailtrail_mail::{Mailbox, Pseudonym};
use mailtrail_trail::suppression::{
    EvidenceItem, EvidenceSource, Reason, SuppressionChange, SuppressionEvidence, evidence_from_event,
};
use mailtrail_trail::{EventSource, ProviderEvent};

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
    let mut everywhere = load_evidence(rows, (&address, GLOBAL_LIST))?;
    let before = everywhere.clone();
    edit(&mut everywhere);
    everywhere.prune();
    put_evidence(rows, (&address, GLOBAL_LIST), &before, &everywhere)?;
    for found in Evidence::of_address_in(rows, &address)? {
        if let Some((_, list)) = found.key().filter(|(_, list)| *list != GLOBAL_LIST) {
            let before = found.row().map(SuppressionEvidence::from).unwrap_or_default();
            let mut own = before.clone();
            own.apply_global_clear(&everywhere);
            put_evidence(rows, (&address, list), &before, &own)?;
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
    let before = load_evidence(rows, (address, list))?;
    let mut own = before.clone();
    edit(&mut own);
    own.apply_global_clear(&load_evidence(rows, (address, GLOBAL_LIST))?);
    put_evidence(rows, (address, list), &before, &own)
}

fn load_evidence(rows: &WriteBatch<'_>, key: (&str, &str)) -> sled::Result<SuppressionEvidence> {
    Ok(Evidence::get(rows, key)?.map(SuppressionEvidence::from).unwrap_or_default())
}

fn put_evidence(
    rows: &mut WriteBatch<'_>,
    key: (&str, &str),
    before: &SuppressionEvidence,
    after: &SuppressionEvidence,
) -> sled::Result<()> {
    if before == after {
        return Ok(());
    }
    if before.is_listed() != after.is_listed() {
        let known = SuppressedCount::get(rows, ())?.unwrap_or_default();
        let listed = if after.is_listed() { known + 1 } else { known.saturating_sub(1) };
        SuppressedCount::put(rows, (), &listed);
    }
    if after.is_empty() {
        Evidence::delete(rows, key);
    } else {
        Evidence::put(rows, key, &SuppressionEvidenceRow::from(after));
    }
    Ok(())
}

/// Derives evidence from an event. The address in the event counts; a later correlation with a message
/// changes nothing.
pub fn evidence_of(event: &ProviderEvent, source: EvidenceSource) -> Option<(String, Reason, EvidenceItem)> {
    let (reason, item) = evidence_from_event(event, source)?;
    let address: Mailbox = event.recipient.as_ref()?.parse().ok()?;
    if Pseudonym::Trail.is_pseudonym(address.as_str()) {
        return None;
    }
    Some((address.to_folded(), reason, item))
}

/// Name of the list that applies to every domain.
const GLOBAL_LIST: &str = "";
