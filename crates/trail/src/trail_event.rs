use crate::dead_letter::{DeadLetter, EventReplay};
use crate::erasure::Erasure;
use crate::inbound::{InboundOutcome, InboundReceived, InboundState, InboundTransition, missing_files_text};
use crate::message::{AttemptOutcome, DuplicateSubmission, Message, RecipientResult, ReportedRecipient};
use crate::operator_action::{OperatorAction, OperatorActionData, OperatorActionKind};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use crate::queue_action::{BreakerOverride, DsnAction, QueueAction, QueueVerb};
use crate::received_event::{CorrelatedBy, EventSource};
use crate::recipient_state::AttemptStatus;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeSet;

/// One line of a trail: an event and its source.
#[derive(Clone, Debug, PartialEq)]
pub struct TrailEvent {
    /// Time of the event.
    pub at: Timestamp,
    /// Kind of the event.
    pub kind: TrailEventKind,
    /// Source of the event.
    pub source: TrailSource,
    /// Upstream involved.
    pub upstream: Option<String>,
    /// Indexes of the recipients in the envelope; empty for all.
    pub recipients: Vec<u16>,
    /// Diagnostic from the source.
    pub diagnostic: Diagnostic,
    /// Time of the next attempt that the event causes.
    pub next_attempt: Option<Timestamp>,
    /// Key by which the event was correlated with its message.
    pub correlated_by: Option<CorrelatedBy>,
    /// Whether software caused it, not a person.
    pub automated: bool,
}

impl TrailEvent {
    /// Creates an event about all recipients, without further data.
    pub fn new(at: Timestamp, kind: TrailEventKind, source: TrailSource) -> Self {
        Self {
            at,
            kind,
            source,
            upstream: None,
            recipients: Vec::new(),
            diagnostic: Diagnostic::default(),
            next_attempt: None,
            correlated_by: None,
            automated: false,
        }
    }

    /// Returns the first event of every trail.
    pub fn from_acceptance(message: &Message) -> Self {
        let repaired = message.list_unsubscribe_rewritten.then_some(LIST_UNSUBSCRIBE_REWRITTEN);
        let changes: Vec<_> =
            repaired.into_iter().chain(message.header_changes.iter().map(String::as_str)).collect();
        let text = Some(changes.join("; ")).filter(|text| !text.is_empty());
        let diagnostic =
            Diagnostic { host: message.peer.map(|peer| peer.to_string()), text, ..Diagnostic::default() };
        Self {
            diagnostic,
            ..Self::new(message.id.timestamp(), TrailEventKind::Accepted, TrailSource::Client)
        }
    }

    /// Returns the trail event of a part of an attempt's outcome.
    pub fn from_attempt(outcome: &AttemptOutcome, result: &RecipientResult) -> Self {
        let source = match result.status {
            // No upstream was contacted.
            AttemptStatus::Suppressed => TrailSource::Relay,
            _ if outcome.upstream.is_empty() => TrailSource::Relay,
            _ => TrailSource::Attempt,
        };
        Self {
            upstream: Some(outcome.upstream.clone()).filter(|upstream| !upstream.is_empty()),
            recipients: result.recipients.clone(),
            diagnostic: result.diagnostic.clone(),
            next_attempt: outcome.next_attempt,
            ..Self::new(outcome.at, TrailEventKind::Attempted(result.status), source)
        }
    }

    /// Returns the trail event of a provider event that was correlated by `rung`, if it was.
    pub fn from_provider_event(
        event: &ProviderEvent,
        upstream: &str,
        via: EventSource,
        recipients: Vec<u16>,
        correlated_by: Option<CorrelatedBy>,
    ) -> Self {
        Self {
            upstream: Some(upstream.to_owned()),
            recipients,
            diagnostic: event.diagnostic.clone(),
            correlated_by,
            automated: event.automated,
            ..Self::new(event.at, TrailEventKind::EventReceived(event.kind), via.into())
        }
    }

    /// Returns the log entry of an undecodable event.
    pub fn from_dead_letter(dead_letter: &DeadLetter) -> Self {
        let diagnostic = Diagnostic {
            name: dead_letter.id().to_string(),
            text: Some(dead_letter.reason.clone()),
            ..Diagnostic::default()
        };
        Self {
            upstream: Some(dead_letter.upstream.clone()),
            diagnostic,
            ..Self::new(dead_letter.received_at, TrailEventKind::DeadLettered, dead_letter.source.into())
        }
    }

    /// Returns the log entry of a replayed event.
    pub fn from_event_replay(replay: &EventReplay) -> Self {
        let EventReplay { id, at, operator, reason, upstream, event, .. } = replay;
        let text = Some(append_reason(format!("{id} is read as {}", event.kind.as_str()), reason));
        let diagnostic = Diagnostic { name: operator.clone(), text, ..Diagnostic::default() };
        Self {
            upstream: Some(upstream.clone()),
            diagnostic,
            ..Self::new(*at, TrailEventKind::EventReplayed, TrailSource::Operator)
        }
    }

    /// Returns the trail event of a duplicate submission.
    pub fn from_duplicate(duplicate: &DuplicateSubmission) -> Self {
        Self {
            recipients: duplicate.recipients.clone(),
            diagnostic: Diagnostic {
                host: duplicate.peer.map(|peer| peer.to_string()),
                ..Diagnostic::default()
            },
            ..Self::new(duplicate.at, TrailEventKind::Resubmitted, TrailSource::Client)
        }
    }

    /// Returns the trail event of an operator's action on some recipients.
    pub fn from_queue_action(action: &QueueAction, recipients: Vec<u16>) -> Self {
        let diagnostic = action.to_diagnostic();
        Self {
            recipients,
            diagnostic,
            ..Self::new(action.at, TrailEventKind::QueueAction(action.verb), TrailSource::Operator)
        }
    }

    /// Returns the log entry of a breaker that an operator opened or closed.
    pub fn from_breaker_override(breaker_override: BreakerOverride) -> Self {
        let BreakerOverride { upstream, at, open, operator, reason } = breaker_override;
        Self {
            upstream: Some(upstream),
            diagnostic: Diagnostic { name: operator, text: Some(reason), ..Diagnostic::default() },
            ..Self::new(at, TrailEventKind::BreakerSwitched { open }, TrailSource::Operator)
        }
    }

    /// Returns the log entry of a received inbound message, with its initial state.
    pub fn from_inbound_received(received: &InboundReceived, state: InboundState) -> Self {
        let InboundReceived { id, upstream, sender, recipient, subject, size, .. } = received;
        let sender = sender.as_ref().map(ToString::to_string).unwrap_or_default();
        let why = received.quarantine_reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let missing =
            missing_files_text(received.missing_files).map(|text| format!(": {text}")).unwrap_or_default();
        let text = format!("<{sender}> to <{recipient}>, {size} bytes, {subject:?}{why}{missing}");
        let what = match state {
            InboundState::Waiting | InboundState::Delivered => TrailEventKind::Inbound(InboundStep::Received),
            InboundState::DeadLetter => TrailEventKind::Inbound(InboundStep::DeadLettered),
            InboundState::Duplicate => TrailEventKind::Inbound(InboundStep::Duplicate),
        };
        Self {
            upstream: Some(upstream.clone()),
            diagnostic: Diagnostic { name: id.to_string(), text: Some(text), ..Diagnostic::default() },
            ..Self::new(id.timestamp(), what, TrailSource::Webhook)
        }
    }

    /// Returns the log entry of an inbound message's state change.
    pub fn from_inbound_transition(transition: &InboundTransition) -> Self {
        let (step, host, text, next_attempt) = match transition.outcome.clone() {
            InboundOutcome::Delivered { target, reply } => (InboundStep::Delivered, target, reply, None),
            InboundOutcome::Deferred { target, reason: why, next_attempt } => {
                (InboundStep::Deferred, target, why, Some(next_attempt))
            }
            InboundOutcome::DeadLettered { target, reason: why } => {
                (InboundStep::DeadLettered, target, why, None)
            }
            InboundOutcome::Released { operator, reason } => {
                (InboundStep::Released, String::new(), append_reason(operator, &reason), None)
            }
        };
        let source = if step == InboundStep::Released { TrailSource::Operator } else { TrailSource::Relay };
        let (text, host) = (Some(text), Some(host).filter(|host| !host.is_empty()));
        Self {
            diagnostic: Diagnostic { name: transition.id.to_string(), text, host, ..Diagnostic::default() },
            next_attempt,
            ..Self::new(transition.at, TrailEventKind::Inbound(step), source)
        }
    }

    /// Returns the log entry of an erasure: the pseudonym and the reason.
    pub fn from_erasure(erasure: Erasure) -> Self {
        let Erasure { at, operator, reason, pseudonym, salt: _ } = erasure;
        let text = Some(append_reason(pseudonym, &reason));
        Self {
            diagnostic: Diagnostic { name: operator, text, ..Diagnostic::default() },
            ..Self::new(at, TrailEventKind::AddressErased, TrailSource::Operator)
        }
    }

    /// Returns the log entry of an operator action.
    pub fn from_operator_action(ordered: OperatorAction) -> Self {
        let OperatorAction { at, data, operator, reason } = ordered;
        let what = TrailEventKind::OperatorAction(data.kind());
        let (upstream, about) = match data {
            OperatorActionData::SinkReplay { sink, since } => (None, format!("{sink} since {since}")),
            OperatorActionData::StoreRebuild { despite_damage: true } => {
                (None, DESPITE_DAMAGE_TEXT.to_owned())
            }
            OperatorActionData::StoreRebuild { despite_damage: false }
            | OperatorActionData::SendTest { .. } => (None, String::new()),
            OperatorActionData::StoreBackup { directory } => (None, directory.display().to_string()),
            OperatorActionData::SuppressSync { upstream } => (Some(upstream), String::new()),
        };
        let text = Some(append_reason(about, &reason)).filter(|text| !text.is_empty());
        Self {
            upstream,
            diagnostic: Diagnostic { name: operator, text, ..Diagnostic::default() },
            ..Self::new(at, what, TrailSource::Operator)
        }
    }

    /// Returns the trail event of a DSN about a recipient.
    pub fn from_dsn(about: &ReportedRecipient, report: TrackingId) -> Self {
        Self {
            recipients: vec![about.recipient_index],
            diagnostic: Diagnostic { text: Some(report.to_string()), ..Diagnostic::default() },
            ..Self::new(report.timestamp(), TrailEventKind::DsnSent(about.action), TrailSource::Relay)
        }
    }
}

/// Appends the reason to a description, if there is one.
fn append_reason(what: String, reason: &str) -> String {
    match (what.is_empty(), reason.is_empty()) {
        (_, true) => what,
        (true, false) => reason.to_owned(),
        (false, false) => format!("{what}: {reason}"),
    }
}

const LIST_UNSUBSCRIBE_REWRITTEN: &str = "List-Unsubscribe repaired";
const DESPITE_DAMAGE_TEXT: &str = "despite damage";

/// Kind of a trail event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailEventKind {
    /// The message was accepted.
    Accepted,
    /// An attempt ended with this status of the recipients.
    Attempted(AttemptStatus),
    /// The provider reported an event.
    EventReceived(EventKind),
    /// The client submitted the message again.
    Resubmitted,
    /// A DSN was sent to the sender, as a message of its own.
    DsnSent(DsnAction),
    /// An operator acted on the message.
    QueueAction(QueueVerb),
    /// An operator opened or closed the upstream's breaker.
    BreakerSwitched {
        /// Whether it was opened; otherwise it was closed.
        open: bool,
    },
    /// A provider event could not be decoded.
    DeadLettered,
    /// An operator had an event decoded again.
    EventReplayed,
    /// The suppression list was changed.
    SuppressionChanged {
        /// Whether an address was added; otherwise it was removed.
        added: bool,
    },
    /// An inbound message advanced by a step.
    Inbound(InboundStep),
    /// An operator erased an address.
    AddressErased,
    /// An operator had the relay perform an action.
    OperatorAction(OperatorActionKind),
}

/// Step of an inbound message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundStep {
    /// Received.
    Received,
    /// Received as a duplicate of another message.
    Duplicate,
    /// Accepted by a target.
    Delivered,
    /// Temporarily refused by a target.
    Deferred,
    /// Moved to the dead letters.
    DeadLettered,
    /// Released for delivery by an operator.
    Released,
}

impl InboundStep {
    /// All steps.
    pub const ALL: [Self; 6] = [
        Self::Received,
        Self::Duplicate,
        Self::Delivered,
        Self::Deferred,
        Self::DeadLettered,
        Self::Released,
    ];
}

impl TrailEventKind {
    /// Returns the keywords of all kinds.
    pub fn all_names() -> BTreeSet<&'static str> {
        let dsn_kinds = [DsnAction::Failed, DsnAction::Delivered].map(Self::DsnSent);
        let own =
            [Self::Accepted, Self::Resubmitted, Self::DeadLettered, Self::EventReplayed, Self::AddressErased];
        let attempted = AttemptStatus::ALL.map(Self::Attempted);
        let reported = EventKind::ALL.map(Self::EventReceived);
        let acted = QueueVerb::ALL.map(Self::QueueAction);
        let switched = [true, false].map(|open| Self::BreakerSwitched { open });
        let listed = [true, false].map(|added| Self::SuppressionChanged { added });
        let inbound = InboundStep::ALL.map(Self::Inbound);
        let ordered = OperatorActionKind::ALL.map(Self::OperatorAction);
        own.into_iter()
            .chain(dsn_kinds)
            .chain(attempted)
            .chain(reported)
            .chain(acted)
            .chain(switched)
            .chain(listed)
            .chain(inbound)
            .chain(ordered)
            .map(Self::as_str)
            .collect()
    }

    /// Returns the keyword of the event vocabulary.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Attempted(AttemptStatus::Queued) => "deferred",
            Self::Attempted(AttemptStatus::Expired) => "failed",
            Self::Attempted(status) => status.as_str(),
            Self::EventReceived(kind) => kind.as_str(),
            Self::Resubmitted => "repeated",
            Self::DsnSent(DsnAction::Failed) => "failure-reported",
            Self::DsnSent(DsnAction::Delivered) => "success-reported",
            Self::QueueAction(verb) => verb.past_tense(),
            Self::BreakerSwitched { open: true } => "breaker-opened",
            Self::BreakerSwitched { open: false } => "breaker-closed",
            Self::DeadLettered => "dead",
            Self::EventReplayed => "replayed",
            Self::SuppressionChanged { added: true } => "listed",
            Self::SuppressionChanged { added: false } => "unlisted",
            Self::Inbound(InboundStep::Received) => "inbound",
            Self::Inbound(InboundStep::Duplicate) => "inbound-duplicate",
            Self::Inbound(InboundStep::Delivered) => "inbound-delivered",
            Self::Inbound(InboundStep::Deferred) => "inbound-deferred",
            Self::Inbound(InboundStep::DeadLettered) => "inbound-dead",
            Self::Inbound(InboundStep::Released) => "inbound-released",
            Self::AddressErased => "erased",
            Self::OperatorAction(task) => task.as_str(),
        }
    }
}

/// Source of a trail event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailSource {
    /// A client that submitted the message.
    Client,
    /// An attempt: a reply of an upstream, or its absence.
    Attempt,
    /// A provider's webhook.
    Webhook,
    /// A poll of a provider.
    Poll,
    /// The relay itself.
    Relay,
    /// An operator.
    Operator,
}

impl From<EventSource> for TrailSource {
    fn from(via: EventSource) -> Self {
        match via {
            EventSource::Webhook => Self::Webhook,
            EventSource::Poll => Self::Poll,
        }
    }
}

impl TrailSource {
    /// Returns the keyword for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Attempt => "smtp",
            Self::Webhook => "webhook",
            Self::Poll => "poll",
            Self::Relay => "mailtrail",
            Self::Operator => "operator",
        }
    }
}
