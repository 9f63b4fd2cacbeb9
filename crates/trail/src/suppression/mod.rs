//! Which addresses get no mail, and why: pure rules over evidence.
//!
//! **Evidence is kept, not verdicts.** What speaks against an address stands in a [`Dossier`]; whether that keeps a mail
//! back follows from it, the [`Settings`], the mail's lane and the time, each time anew. A changed setting therefore
//! applies to everything that is known.
//!
//! A dossier belongs to one address and one **list**. A list is that of one sending domain, and goes by the name of the
//! upstream that reported: an upstream has one domain, a provider's report names no other, and what stands in the
//! journal must not depend on a configuration that changes. Upstreams of one provider and one domain share what they
//! know when it is looked at ([`Lists`]). One more list holds for every domain.
//!
//! Evidence joins **in any order and any number of times to the same dossier**: what happened at one time is one thing,
//! the latest of it speaks, and what was cleared at a time is void up to that time, whether it came before the clearing
//! or comes after it.
//!
//! An event needs no send to be evidence: the provider keeps mail to that address back all the same, whoever it came
//! from.

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
