//! Row types. The rows are rebuilt from the journal when [`SCHEMA_VERSION`] changes, so no old form is kept.

use crate::position::Position;
use crate::record::{
    AttemptStatusV1, DiagnosticV1, MessageV5, ProviderEventV1, QueueVerbV1, dsn_action_from_flag,
    event_kind_code, event_kind_from_code,
};
use mailtrail_mail::{MessageId, Timestamp};
use mailtrail_trail::{
    CorrelatedBy, DsnAction, EventMark, EventMarks, InboundStep, MarkKind, OperatorActionKind, QueueKey,
    Recipient, ReportedFailure, TrailEvent, TrailEventKind, TrailSource, Transmission,
};
use serde::{Deserialize, Serialize};

/// Version of all row types and keys. A journal that older versions cannot read requires a new version, too.
/// Without it, an older version would not notice while the ledger is up to date; with it, it reads the
/// journal from the beginning.
pub const SCHEMA_VERSION: u32 = 14;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageRow {
    pub message: MessageV5,
    pub recipient_count: u16,
    pub attempts: u32,
    /// Queue entry, while the message is open.
    pub queue_entry: Option<QueueEntryRow>,
    /// Upstream that may have accepted the message: it was sent the message and did not reply.
    pub uncertain_upstream: Option<Box<str>>,
    /// Upstreams that could not accept the message when they were last tried.
    pub excluded_upstreams: Vec<Box<str>>,
    /// Time at which the last attempt ended, or of acceptance.
    pub changed_at: u64,
    pub position: Position,
    /// Length of the body in the journal, in bytes.
    pub body_length: u32,
    /// The recipient if there is only one; several recipients have rows of their own.
    pub only_recipient: Option<RecipientRow>,
}

/// Entry in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntryRow {
    /// Time of the next attempt; for a held message, the time before it was held.
    pub next_attempt: u64,
    /// Queue key of the message.
    pub queue_key: QueueKeyRow,
}

/// Stored form of a queue key; also the value of a queue row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueKeyRow {
    Route(Option<Box<str>>),
    Upstream { name: Box<str>, route: Option<Box<str>> },
    Held,
    RouteExcept { route: Option<Box<str>>, excluded: Vec<Box<str>> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecipientRow {
    address: String,
    attempt_status: AttemptStatusV1,
    held: bool,
    marks: Vec<(u8, bool, u64, u64, u32)>,
    diagnostic: DiagnosticV1,
    reported_failure: Option<(u8, u64, DiagnosticV1)>,
    /// DSN sent: true for a failure, false for a delivery.
    dsn_sent: Option<bool>,
    /// Index in the list of transmission states.
    transmission: u8,
    tracking_confirmed: bool,
}

const TRANSMISSIONS: [Transmission; 3] =
    [Transmission::Incomplete, Transmission::Deferred, Transmission::Unanswered];

#[derive(Debug, Serialize, Deserialize)]
pub struct OrphanRow {
    pub upstream: String,
    pub from_poll: bool,
    pub event: ProviderEventV1,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DeadLetterRow {
    pub upstream: String,
    pub from_poll: bool,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct TrailEventRow {
    at: u64,
    kind: TrailEventKindRow,
    source: u8,
    upstream: Option<String>,
    recipients: Vec<u16>,
    diagnostic: DiagnosticV1,
    next_attempt: Option<u64>,
    correlated_by: Option<bool>,
    automated: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum TrailEventKindRow {
    Accepted,
    Attempted(AttemptStatusV1),
    EventReceived(u8),
    Resubmitted,
    /// DSN sent: true for a failure, false for a delivery.
    DsnSent(bool),
    QueueAction(QueueVerbV1),
    BreakerSwitched(bool),
    DeadLettered,
    EventReplayed,
    SuppressionChanged(bool),
    /// Index in [`InboundStep::ALL`].
    Inbound(u8),
    AddressErased,
    /// Index in the list of operator action kinds.
    OperatorAction(u8),
}

impl From<&QueueKey> for QueueKeyRow {
    fn from(waits: &QueueKey) -> Self {
        match waits.clone() {
            QueueKey::Route(route) => Self::Route(route),
            QueueKey::RouteExcept { route, excluded } => Self::RouteExcept { route, excluded },
            QueueKey::Upstream { name, route } => Self::Upstream { name, route },
            QueueKey::Held => Self::Held,
        }
    }
}

impl From<QueueKeyRow> for QueueKey {
    fn from(stored: QueueKeyRow) -> Self {
        match stored {
            QueueKeyRow::Route(route) => Self::Route(route),
            QueueKeyRow::RouteExcept { route, excluded } => Self::RouteExcept { route, excluded },
            QueueKeyRow::Upstream { name, route } => Self::Upstream { name, route },
            QueueKeyRow::Held => Self::Held,
        }
    }
}

impl MessageRow {
    /// Returns the time of the next attempt while the message is open.
    pub fn next_attempt(&self) -> Option<Timestamp> {
        self.queue_entry.as_ref().map(|queued| Timestamp::from_millis(queued.next_attempt))
    }

    /// Returns whether the message is finished and was last changed before `before`.
    pub fn is_expired(&self, before: Timestamp) -> bool {
        self.queue_entry.is_none() && self.last_changed() < before
    }

    /// Returns the time of acceptance or of the last attempt.
    pub fn last_changed(&self) -> Timestamp {
        self.message.id().timestamp().max(Timestamp::from_millis(self.changed_at))
    }

    /// Compares the full Message-ID; the index has only a short hash.
    pub fn has_message_id(&self, message_id: &MessageId) -> bool {
        self.message.message_id().and_then(MessageId::parse).as_ref() == Some(message_id)
    }
}

impl From<&Recipient> for RecipientRow {
    fn from(recipient: &Recipient) -> Self {
        let marks = recipient.marks.iter().map(|(kind, mark)| {
            let (kind, by_machine) = match kind {
                MarkKind::Person(kind) => (*kind, false),
                MarkKind::Automated(kind) => (*kind, true),
            };
            (event_kind_code(kind), by_machine, mark.first.as_millis(), mark.last.as_millis(), mark.count)
        });
        Self {
            address: recipient.address.to_string(),
            attempt_status: recipient.attempt_status.into(),
            held: recipient.held,
            marks: marks.collect(),
            diagnostic: (&recipient.diagnostic).into(),
            reported_failure: recipient.reported_failure.as_ref().map(|failure| {
                (event_kind_code(failure.kind), failure.at.as_millis(), (&failure.diagnostic).into())
            }),
            dsn_sent: recipient.dsn_sent.map(|occasion| occasion == DsnAction::Failed),
            transmission: index_in(&TRANSMISSIONS, &recipient.transmission),
            tracking_confirmed: recipient.tracking_confirmed,
        }
    }
}

impl RecipientRow {
    pub fn into_domain(self) -> Option<Recipient> {
        let marks = self.marks.into_iter().map(|(kind, by_machine, first, last, count)| {
            let kind = event_kind_from_code(kind);
            let kind = if by_machine { MarkKind::Automated(kind) } else { MarkKind::Person(kind) };
            (
                kind,
                EventMark { first: Timestamp::from_millis(first), last: Timestamp::from_millis(last), count },
            )
        });
        Some(Recipient {
            address: self.address.parse().ok()?,
            attempt_status: self.attempt_status.into(),
            held: self.held,
            marks: EventMarks::new(marks.collect()),
            diagnostic: self.diagnostic.into(),
            reported_failure: self.reported_failure.map(|(kind, at, words)| ReportedFailure {
                kind: event_kind_from_code(kind),
                at: Timestamp::from_millis(at),
                diagnostic: words.into(),
            }),
            dsn_sent: self.dsn_sent.map(dsn_action_from_flag),
            transmission: value_at(TRANSMISSIONS, self.transmission),
            tracking_confirmed: self.tracking_confirmed,
        })
    }
}

/// Returns the index of a value in the list of all values, which is append-only.
fn index_in<T: PartialEq>(all: &[T], word: &T) -> u8 {
    all.iter().position(|known| known == word).map_or(0, |place| place as u8)
}

/// Returns the value at an index; the inverse of [`index_in`]. Returns the first value for a damaged index.
fn value_at<T: Copy, const N: usize>(all: [T; N], code: u8) -> T {
    *all.get(usize::from(code)).unwrap_or(&all[0])
}

impl From<&TrailEvent> for TrailEventRow {
    fn from(trail_event: &TrailEvent) -> Self {
        Self {
            at: trail_event.at.as_millis(),
            kind: match trail_event.kind {
                TrailEventKind::Accepted => TrailEventKindRow::Accepted,
                TrailEventKind::Attempted(status) => TrailEventKindRow::Attempted(status.into()),
                TrailEventKind::EventReceived(kind) => {
                    TrailEventKindRow::EventReceived(event_kind_code(kind))
                }
                TrailEventKind::Resubmitted => TrailEventKindRow::Resubmitted,
                TrailEventKind::DsnSent(occasion) => {
                    TrailEventKindRow::DsnSent(occasion == DsnAction::Failed)
                }
                TrailEventKind::BreakerSwitched { open } => TrailEventKindRow::BreakerSwitched(open),
                TrailEventKind::DeadLettered => TrailEventKindRow::DeadLettered,
                TrailEventKind::EventReplayed => TrailEventKindRow::EventReplayed,
                TrailEventKind::SuppressionChanged { added } => TrailEventKindRow::SuppressionChanged(added),
                TrailEventKind::AddressErased => TrailEventKindRow::AddressErased,
                TrailEventKind::OperatorAction(task) => {
                    TrailEventKindRow::OperatorAction(index_in(&OperatorActionKind::ALL, &task))
                }
                TrailEventKind::Inbound(step) => {
                    TrailEventKindRow::Inbound(index_in(&InboundStep::ALL, &step))
                }
                TrailEventKind::QueueAction(verb) => TrailEventKindRow::QueueAction(verb.into()),
            },
            source: match trail_event.source {
                TrailSource::Client => 0,
                TrailSource::Attempt => 1,
                TrailSource::Webhook => 2,
                TrailSource::Relay => 3,
                TrailSource::Operator => 4,
                TrailSource::Poll => 5,
            },
            upstream: trail_event.upstream.clone(),
            recipients: trail_event.recipients.clone(),
            diagnostic: (&trail_event.diagnostic).into(),
            next_attempt: trail_event.next_attempt.map(Timestamp::as_millis),
            correlated_by: trail_event.correlated_by.map(|key_kind| key_kind == CorrelatedBy::TrackingId),
            automated: trail_event.automated,
        }
    }
}

impl From<TrailEventRow> for TrailEvent {
    fn from(row: TrailEventRow) -> Self {
        Self {
            at: Timestamp::from_millis(row.at),
            kind: match row.kind {
                TrailEventKindRow::Accepted => TrailEventKind::Accepted,
                TrailEventKindRow::Attempted(status) => TrailEventKind::Attempted(status.into()),
                TrailEventKindRow::EventReceived(kind) => {
                    TrailEventKind::EventReceived(event_kind_from_code(kind))
                }
                TrailEventKindRow::Resubmitted => TrailEventKind::Resubmitted,
                TrailEventKindRow::DsnSent(failure) => TrailEventKind::DsnSent(dsn_action_from_flag(failure)),
                TrailEventKindRow::BreakerSwitched(open) => TrailEventKind::BreakerSwitched { open },
                TrailEventKindRow::DeadLettered => TrailEventKind::DeadLettered,
                TrailEventKindRow::EventReplayed => TrailEventKind::EventReplayed,
                TrailEventKindRow::SuppressionChanged(added) => TrailEventKind::SuppressionChanged { added },
                TrailEventKindRow::AddressErased => TrailEventKind::AddressErased,
                TrailEventKindRow::OperatorAction(code) => {
                    TrailEventKind::OperatorAction(value_at(OperatorActionKind::ALL, code))
                }
                TrailEventKindRow::Inbound(code) => TrailEventKind::Inbound(value_at(InboundStep::ALL, code)),
                TrailEventKindRow::QueueAction(verb) => TrailEventKind::QueueAction(verb.into()),
            },
            source: match row.source {
                0 => TrailSource::Client,
                1 => TrailSource::Attempt,
                3 => TrailSource::Relay,
                4 => TrailSource::Operator,
                5 => TrailSource::Poll,
                _ => TrailSource::Webhook,
            },
            upstream: row.upstream,
            recipients: row.recipients,
            diagnostic: row.diagnostic.into(),
            next_attempt: row.next_attempt.map(Timestamp::from_millis),
            correlated_by: row
                .correlated_by
                .map(|tracking| if tracking { CorrelatedBy::TrackingId } else { CorrelatedBy::MessageId }),
            automated: row.automated,
        }
    }
}
