//! The rows in their own types. They are rebuilt from the journal when [`SCHEMA`] changes, so no old shape is kept.

use crate::journal::Position;
use crate::ledger::keys;
use crate::record::{
    AttemptStatusV1, DiagnosticV1, MessageV5, ProviderEventV1, QueueVerbV1, dsn_action_from_flag,
    event_kind_code, event_kind_from_code,
};
use mailtrail_mail::{Lane, MessageId, Timestamp, TrackingId};
use mailtrail_trail::{
    CorrelatedBy, DsnAction, EventMark, EventMarks, InboundStep, MarkKind, OperatorActionKind, QueueKey,
    Recipient, ReportedFailure, TrailEvent, TrailEventKind, TrailSource, Transmission,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of everything in this file and in the keys. A journal that older versions cannot read makes a new one, too:
/// they would not notice while the ledger is up to date, and read the journal from its beginning so.
pub const SCHEMA_VERSION: u32 = 14;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageRow {
    pub message: MessageV5,
    pub recipient_count: u16,
    pub attempts: u32,
    /// Its place in the queue, while it is open.
    pub queue_entry: Option<QueueEntryRow>,
    /// The upstream that may have the message: one that was sent it and did not answer.
    pub uncertain_upstream: Option<Box<str>>,
    /// The upstreams that were found unable to take it when they were asked last.
    pub excluded_upstreams: Vec<Box<str>>,
    /// When the last attempt ended, or it was accepted.
    pub changed_at: u64,
    pub position: Position,
    /// Bytes of the message in the journal.
    pub body_length: u32,
    /// The recipient, where there is one; several have rows of their own.
    pub only_recipient: Option<RecipientRow>,
}

/// A place in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntryRow {
    /// When the next attempt is due, or was to be when it was held.
    pub next_attempt: u64,
    /// What it waits for.
    pub queue_key: QueueKeyRow,
}

/// Also the value of a row of the queue.
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
    /// Of a failure, or else of the arrival.
    dsn_sent: Option<bool>,
    /// By its place in [`SENT`].
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
    /// Of a failure, or else of the arrival.
    DsnSent(bool),
    QueueAction(QueueVerbV1),
    BreakerSwitched(bool),
    DeadLettered,
    EventReplayed,
    SuppressionChanged(bool),
    /// By its place in [`Step::ALL`].
    Inbound(u8),
    AddressErased,
    /// By its place in [`Chore::ALL`].
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

/// The stored form of a row.
pub fn encode_row(row: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(row).expect("plain data in memory always encodes")
}

/// The inverse of [`encode`]; `None` for a damaged row.
pub fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

impl QueueEntryRow {
    /// The key of its row in the queue.
    pub fn key(&self, lane: Lane, id: TrackingId) -> Vec<u8> {
        keys::queue_key(
            keys::queue_prefix(lane, &self.queue_key),
            Timestamp::from_millis(self.next_attempt),
            id,
        )
    }
}

impl MessageRow {
    /// When its next attempt is due, while it is open.
    pub fn next_attempt(&self) -> Option<Timestamp> {
        self.queue_entry.as_ref().map(|queued| Timestamp::from_millis(queued.next_attempt))
    }

    /// Whether that is its Message-ID; the index knows only a short hash.
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

/// A word by its place in the list of all, to which words are only ever added at the end.
fn index_in<T: PartialEq>(all: &[T], word: &T) -> u8 {
    all.iter().position(|known| known == word).map_or(0, |place| place as u8)
}

/// The inverse of [`code_in`]; the first for a damaged code.
fn value_at<T: Copy, const N: usize>(all: [T; N], code: u8) -> T {
    *all.get(usize::from(code)).unwrap_or(&all[0])
}

impl From<&TrailEvent> for TrailEventRow {
    fn from(fact: &TrailEvent) -> Self {
        Self {
            at: fact.at.as_millis(),
            kind: match fact.kind {
                TrailEventKind::Accepted => TrailEventKindRow::Accepted,
                TrailEventKind::Attempted(standing) => TrailEventKindRow::Attempted(standing.into()),
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
                TrailEventKind::OperatorAction(chore) => {
                    TrailEventKindRow::OperatorAction(index_in(&OperatorActionKind::ALL, &chore))
                }
                TrailEventKind::Inbound(step) => {
                    TrailEventKindRow::Inbound(index_in(&InboundStep::ALL, &step))
                }
                TrailEventKind::QueueAction(verb) => TrailEventKindRow::QueueAction(verb.into()),
            },
            source: match fact.source {
                TrailSource::Client => 0,
                TrailSource::Attempt => 1,
                TrailSource::Webhook => 2,
                TrailSource::Relay => 3,
                TrailSource::Operator => 4,
                TrailSource::Poll => 5,
            },
            upstream: fact.upstream.clone(),
            recipients: fact.recipients.clone(),
            diagnostic: (&fact.diagnostic).into(),
            next_attempt: fact.next_attempt.map(Timestamp::as_millis),
            correlated_by: fact.correlated_by.map(|rung| rung == CorrelatedBy::TrackingId),
            automated: fact.automated,
        }
    }
}

impl From<TrailEventRow> for TrailEvent {
    fn from(row: TrailEventRow) -> Self {
        Self {
            at: Timestamp::from_millis(row.at),
            kind: match row.kind {
                TrailEventKindRow::Accepted => TrailEventKind::Accepted,
                TrailEventKindRow::Attempted(standing) => TrailEventKind::Attempted(standing.into()),
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
