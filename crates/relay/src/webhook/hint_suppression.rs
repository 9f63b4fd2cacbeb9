//! Which hints keep bulk mail back.

use crate::webhook::source::HintSuppression;
use mailtrail_mail::Mailbox;
use mailtrail_store::{ReadError, Store};
use mailtrail_trail::ReceivedHint;
use mailtrail_trail::suppression::{
    EvidenceItem, EvidenceSource, Reason, Scope, SuppressionChange, SuppressionChangeKind,
};

/// Returns the change of the suppression list after a hint, if there is one: for bulk mail of all upstreams. Existing
/// evidence for the same reason is stronger than a hint and stays.
pub(super) fn suppression_change_for(
    store: &Store,
    suppress: &[HintSuppression],
    hinted: &ReceivedHint,
) -> Result<Option<SuppressionChange>, ReadError> {
    let ReceivedHint { source, received_at, hint, .. } = hinted;
    let reason: Option<Reason> = suppress.iter().find_map(|rule| rule.suppression_reason(hint));
    let address: Option<Mailbox> = hint.address.as_ref().and_then(|address| address.parse().ok());
    let Some((reason, address)) = reason.zip(address) else { return Ok(None) };
    let known = store.suppression_evidence(&address.to_folded(), "")?.unwrap_or_default();
    if known.active_for(reason).is_some_and(|live| live.source != EvidenceSource::Hint) {
        return Ok(None);
    }
    let text = hint.diagnostic.text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
    let mark = EvidenceItem {
        at: hint.at.min(*received_at),
        scope: Scope::Bulk,
        source: EvidenceSource::Hint,
        expires_at: None,
        diagnostic: format!("{} at {source}{text}", hint.diagnostic.name),
    };
    let kind = SuppressionChangeKind::Add { reason, items: vec![mark] };
    Ok(Some(SuppressionChange { address, list: None, at: *received_at, operator: String::new(), kind }))
}
