//! Record types of the journal and their stored forms. A stored form that was ever written stays readable:
//! each change adds a new version.

mod attempt;
mod contact_hint;
mod diagnostic;
#[cfg(test)]
mod golden;
mod inbound;
mod journal_record;
mod message;
mod operator_action;
mod provider_event;
mod queue_action;
mod sink_ack;
mod suppression;
mod writer;

pub(crate) use attempt::AttemptStatusV1;
pub(crate) use contact_hint::ReceivedHintV1;
pub(crate) use diagnostic::DiagnosticV1;
pub(crate) use inbound::{InboundReceivedV1, InboundStateV1};
pub(crate) use journal_record::{JournalRecord, Record, UnknownRecord};
pub(crate) use message::{MessageV5, dsn_action_from_flag};
pub(crate) use provider_event::{
    ProviderEventV1, event_kind_code, event_kind_from_code, event_source_from_flag,
};
pub(crate) use queue_action::QueueVerbV1;
pub(crate) use suppression::SuppressionEvidenceRow;
