//! Applies journal records to the ledger. Applying is a pure function of the rows and the record, so
//! replaying the journal always results in the same rows.

mod attempt;
mod contact_hint;
mod correlation;
mod event_replay;
mod inbound;
mod message;
mod provider_event;
mod recipient_state;
mod record;
mod sink;
mod suppression;
mod text;

pub(crate) use correlation::{correlate, has_event};
pub(crate) use event_replay::{find_owner, load_replayed_event};
pub(crate) use provider_event::awaited_message;
pub(crate) use record::apply_record;
pub(crate) use suppression::evidence_of;
