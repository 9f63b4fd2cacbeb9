//! Suppression of addresses, as pure rules over evidence.
//!
//! **Evidence is stored, not verdicts.** A [`SuppressionEvidence`] holds the evidence against an address.
//! Whether that suppresses a message is derived each time from the evidence, the [`SuppressionSettings`], the
//! message's lane and the time. A changed setting therefore applies to all existing evidence.
//!
//! Evidence belongs to one address and one **list**. A list is that of one sending domain, and is named after
//! the reporting upstream. An upstream has one domain, a provider event names no other, and data in the
//! journal must not depend on a configuration that changes. Upstreams with the same provider and domain share
//! their evidence at evaluation ([`ListScope`]). One more list applies to every domain.
//!
//! Evidence merges **in any order and any number of times to the same result**. Occurrences with the same
//! time count once, the latest occurrence determines the details, and a clearing invalidates everything up to
//! its time, whether that arrived earlier or arrives later.
//!
//! An event needs no matching message to be evidence: the provider suppresses the address for every client.

mod change;
mod evidence;
mod policy;
mod reason;

pub use change::{SuppressionChange, SuppressionChangeKind};
pub use evidence::{ActiveEvidence, ReasonEvidence, SuppressionEvidence};
pub use policy::{
    ENHANCED_STATUS, Expiry, ListScope, RecipientFilter, SuppressionMode, SuppressionSettings,
    SuppressionVerdict, UnsubscribeScope,
};
pub use reason::{
    EvidenceItem, EvidenceSource, Reason, Scope, evidence_from_event, is_address_refusal, is_address_status,
};
