//! Entries of the log: the trail events of one record.

use crate::ledger::Ledger;
use crate::log_cursor::LogCursor;
use crate::record::Record;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::suppression::{SuppressionChange, SuppressionChangeKind};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, CorrelatedBy, Diagnostic, InboundRecord, InboundState, OperatorAction,
    OperatorActionData, ReceivedEvent, TrailEvent, TrailEventKind, TrailSource,
};

/// One line of the log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Message that the event belongs to; `None` for an unmatched event.
    pub tracking_id: Option<TrackingId>,
    /// Time at which the event was written.
    pub recorded_at: Timestamp,
    /// Event of the line.
    pub event: TrailEvent,
}

/// An entry that a sink rejected permanently.
#[derive(Clone, Debug)]
pub struct SinkDeadLetter {
    /// Time of the rejection.
    pub at: Timestamp,
    /// Reason of the rejection.
    pub reason: String,
    /// The entry, if the journal still has it.
    pub entry: Option<LogEntry>,
}

/// Log entries of one record.
#[derive(Clone, Debug)]
pub struct LoggedRecord {
    /// Position of the record.
    pub cursor: LogCursor,
    /// Entries of the record; several if an attempt had several outcomes.
    pub entries: Vec<LogEntry>,
}

/// Appends the log entries of a record.
pub(crate) fn append_entries(
    ledger: &Ledger,
    record: Record,
    entries: &mut Vec<LogEntry>,
) -> sled::Result<()> {
    match record {
        Record::AcceptedMessage(accepted) => entries.push(entry_from_acceptance(&accepted)),
        // These records belong to no message, so the log omits them.
        Record::AttemptStarted(_) | Record::SinkAck(_) | Record::ReceivedHint(_) | Record::PollCursor(_) => {}
        Record::DuplicateSubmission(repeated) => entries.push(LogEntry {
            tracking_id: Some(repeated.id),
            recorded_at: repeated.at,
            event: TrailEvent::from_duplicate(&repeated),
        }),
        Record::QueueAction(action) => {
            let all = ledger.load_message(action.id)?.map_or(0, |(_, row)| row.recipient_count);
            let event = TrailEvent::from_queue_action(&action, (0..all).collect());
            entries.push(LogEntry { tracking_id: Some(action.id), recorded_at: action.at, event });
        }
        Record::BreakerOverride(breaker_override) => {
            entries.push(LogEntry {
                tracking_id: None,
                recorded_at: breaker_override.at,
                event: TrailEvent::from_breaker_override(breaker_override),
            });
        }
        Record::SuppressionChange(change) => entries.push(entry_from_suppression_change(*change)),
        Record::Erasure(erased) => {
            entries.push(LogEntry {
                tracking_id: None,
                recorded_at: erased.at,
                event: TrailEvent::from_erasure(*erased),
            });
        }
        Record::OperatorAction(ordered) => entries.push(entry_from_operator_action(*ordered)),
        Record::AttemptOutcome(outcome) => entries.extend(entries_from_outcome(&outcome)),
        Record::ReceivedEvent(received_event) => {
            let found = ledger.correlate(&received_event.event)?;
            entries.push(entry_from_received_event(&received_event, found));
        }
        Record::Inbound(inbound) => {
            let (recorded_at, event) = match &*inbound {
                InboundRecord::Received(received) => {
                    let first = if received.quarantine_reason.is_some() {
                        InboundState::DeadLetter
                    } else {
                        InboundState::Waiting
                    };
                    let existing = ledger.inbound_mail(received.id)?;
                    let same = existing.is_some_and(|(mail, _)| mail.state == InboundState::Duplicate);
                    let state = if same { InboundState::Duplicate } else { first };
                    (received.id.timestamp(), TrailEvent::from_inbound_received(received, state))
                }
                InboundRecord::Transitioned(transition) => {
                    (transition.at, TrailEvent::from_inbound_transition(transition))
                }
            };
            entries.push(LogEntry { tracking_id: None, recorded_at, event });
        }
        Record::DeadLetter(dead) => {
            entries.push(LogEntry {
                tracking_id: None,
                recorded_at: dead.received_at,
                event: TrailEvent::from_dead_letter(&dead),
            });
        }
        Record::EventReplay(replay) => {
            let tracking_id = ledger.correlate(&replay.event)?.map(|(id, ..)| id);
            entries.push(LogEntry {
                tracking_id,
                recorded_at: replay.at,
                event: TrailEvent::from_event_replay(&replay),
            });
        }
    }
    Ok(())
}

fn entry_from_acceptance(accepted: &AcceptedMessage) -> LogEntry {
    let id = accepted.message.id;
    LogEntry {
        tracking_id: Some(id),
        recorded_at: id.timestamp(),
        event: TrailEvent::from_acceptance(&accepted.message),
    }
}

fn entries_from_outcome(outcome: &AttemptOutcome) -> impl Iterator<Item = LogEntry> {
    outcome.results.iter().map(|result| {
        let event = TrailEvent::from_attempt(outcome, result);
        LogEntry { tracking_id: Some(outcome.id), recorded_at: outcome.at, event }
    })
}

fn entry_from_operator_action(ordered: OperatorAction) -> LogEntry {
    let tracking_id = match ordered.data {
        OperatorActionData::SendTest { id } => Some(id),
        _ => None,
    };
    LogEntry { tracking_id, recorded_at: ordered.at, event: TrailEvent::from_operator_action(ordered) }
}

fn entry_from_suppression_change(change: SuppressionChange) -> LogEntry {
    let (added, why) = match &change.kind {
        SuppressionChangeKind::Add { reason, items } => {
            let diagnostic_text = items
                .last()
                .map(|item| item.diagnostic.as_str())
                .filter(|diagnostic_text| !diagnostic_text.is_empty());
            (
                true,
                diagnostic_text.map_or(reason.as_str().to_owned(), |diagnostic_text| {
                    format!("{}: {diagnostic_text}", reason.as_str())
                }),
            )
        }
        SuppressionChangeKind::Remove { reason, comment } => {
            let reason = reason.map_or("all reasons", |reason| reason.as_str());
            (false, if comment.is_empty() { reason.to_owned() } else { format!("{reason}: {comment}") })
        }
    };
    let text = Some(format!("{} {why}", change.address));
    let source = if change.operator.is_empty() { TrailSource::Relay } else { TrailSource::Operator };
    let event = TrailEvent {
        upstream: change.list,
        diagnostic: Diagnostic { name: change.operator, text, ..Diagnostic::default() },
        ..TrailEvent::new(change.at, TrailEventKind::SuppressionChanged { added }, source)
    };
    LogEntry { tracking_id: None, recorded_at: change.at, event }
}

fn entry_from_received_event(
    received_event: &ReceivedEvent,
    found: Option<(TrackingId, Vec<u16>, CorrelatedBy)>,
) -> LogEntry {
    let (tracking_id, recipients, correlated_by) = match found {
        Some((id, recipients, correlated_by)) => (Some(id), recipients, Some(correlated_by)),
        None => (None, Vec::new(), None),
    };
    let event = TrailEvent::from_provider_event(
        &received_event.event,
        &received_event.upstream,
        received_event.source,
        recipients,
        correlated_by,
    );
    LogEntry { tracking_id, recorded_at: received_event.received_at, event }
}
