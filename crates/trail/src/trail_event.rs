use crate::dead_letter::{DeadLetter, EventReplay};
use crate::erasure::Erasure;
use crate::inbound::{InboundOutcome, InboundReceived, InboundState, InboundTransition, missing_files_text};
use crate::message::{
    AttemptOutcome, BreakerOverride, DsnAction, DuplicateSubmission, EventSource, Message, QueueAction,
    QueueVerb, RecipientResult, ReportedRecipient,
};
use crate::operator_action::{OperatorAction, OperatorActionData, OperatorActionKind};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use crate::recipient::AttemptStatus;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeSet;

/// One line of a trail: something that happened, and how we know.
#[derive(Clone, Debug, PartialEq)]
pub struct TrailEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What.
    pub kind: TrailEventKind,
    /// How we know.
    pub source: TrailSource,
    /// The upstream it has to do with.
    pub upstream: Option<String>,
    /// Whom it concerns, by their places in the envelope; empty: all of them.
    pub recipients: Vec<u16>,
    /// The words of whoever told us.
    pub diagnostic: Diagnostic,
    /// When the next attempt is due because of it.
    pub next_attempt: Option<Timestamp>,
    /// How an event found its send.
    pub correlated_by: Option<CorrelatedBy>,
    /// Whether software did it, not a person.
    pub automated: bool,
}

impl TrailEvent {
    /// Something about everybody, of which nothing else is known.
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

    /// The first fact of every trail.
    pub fn from_acceptance(send: &Message) -> Self {
        let repaired = send.list_unsubscribe_rewritten.then_some(LIST_UNSUBSCRIBE_REWRITTEN);
        let changes: Vec<_> =
            repaired.into_iter().chain(send.header_changes.iter().map(String::as_str)).collect();
        let text = Some(changes.join("; ")).filter(|text| !text.is_empty());
        let diagnostic =
            Diagnostic { host: send.peer.map(|peer| peer.to_string()), text, ..Diagnostic::default() };
        Self { diagnostic, ..Self::new(send.id.timestamp(), TrailEventKind::Accepted, TrailSource::Client) }
    }

    /// What a trail says about a part of an attempt's outcome.
    pub fn from_attempt(outcome: &AttemptOutcome, settled: &RecipientResult) -> Self {
        let source = match settled.status {
            // No upstream was asked.
            AttemptStatus::Suppressed => TrailSource::Relay,
            _ if outcome.upstream.is_empty() => TrailSource::Relay,
            _ => TrailSource::Attempt,
        };
        Self {
            upstream: Some(outcome.upstream.clone()).filter(|upstream| !upstream.is_empty()),
            recipients: settled.recipients.clone(),
            diagnostic: settled.diagnostic.clone(),
            next_attempt: outcome.next_attempt,
            ..Self::new(outcome.at, TrailEventKind::Attempted(settled.status), source)
        }
    }

    /// What a trail says about a provider's event that found its send by `rung`, if it did.
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

    /// What the log says about a report that cannot be understood.
    pub fn from_dead_letter(dead: &DeadLetter) -> Self {
        let diagnostic = Diagnostic {
            name: dead.id().to_string(),
            text: Some(dead.reason.clone()),
            ..Diagnostic::default()
        };
        Self {
            upstream: Some(dead.upstream.clone()),
            diagnostic,
            ..Self::new(dead.received_at, TrailEventKind::DeadLettered, dead.source.into())
        }
    }

    /// What the log says about a report that was read anew.
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

    /// What a trail says about a repetition.
    pub fn from_duplicate(repeated: &DuplicateSubmission) -> Self {
        Self {
            recipients: repeated.recipients.clone(),
            diagnostic: Diagnostic {
                host: repeated.peer.map(|peer| peer.to_string()),
                ..Diagnostic::default()
            },
            ..Self::new(repeated.at, TrailEventKind::Resubmitted, TrailSource::Client)
        }
    }

    /// What a trail says about an operator's action on some recipients.
    pub fn from_queue_action(action: &QueueAction, recipients: Vec<u16>) -> Self {
        let diagnostic = action.to_diagnostic();
        Self {
            recipients,
            diagnostic,
            ..Self::new(action.at, TrailEventKind::QueueAction(action.verb), TrailSource::Operator)
        }
    }

    /// What the log says about a breaker that an operator opened or closed.
    pub fn from_breaker_override(switch: BreakerOverride) -> Self {
        let BreakerOverride { upstream, at, open, operator, reason } = switch;
        Self {
            upstream: Some(upstream),
            diagnostic: Diagnostic { name: operator, text: Some(reason), ..Diagnostic::default() },
            ..Self::new(at, TrailEventKind::BreakerSwitched { open }, TrailSource::Operator)
        }
    }

    /// What the log says about a mail from outside that came: where it stood then.
    pub fn from_inbound_received(arrival: &InboundReceived, leg: InboundState) -> Self {
        let InboundReceived { id, upstream, sender, recipient, subject, size, .. } = arrival;
        let sender = sender.as_ref().map(ToString::to_string).unwrap_or_default();
        let why = arrival.quarantine_reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let missing =
            missing_files_text(arrival.missing_files).map(|text| format!(": {text}")).unwrap_or_default();
        let text = format!("<{sender}> to <{recipient}>, {size} bytes, {subject:?}{why}{missing}");
        let what = match leg {
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

    /// What the log says about a mail from outside that went on, or did not.
    pub fn from_inbound_transition(moved: &InboundTransition) -> Self {
        let (step, host, text, next_attempt) = match moved.outcome.clone() {
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
            diagnostic: Diagnostic { name: moved.id.to_string(), text, host, ..Diagnostic::default() },
            next_attempt,
            ..Self::new(moved.at, TrailEventKind::Inbound(step), source)
        }
    }

    /// What the log says about an address that an operator had erased: its pseudonym, and why.
    pub fn from_erasure(erased: Erasure) -> Self {
        let Erasure { at, operator, reason, pseudonym, salt: _ } = erased;
        let text = Some(append_reason(pseudonym, &reason));
        Self {
            diagnostic: Diagnostic { name: operator, text, ..Diagnostic::default() },
            ..Self::new(at, TrailEventKind::AddressErased, TrailSource::Operator)
        }
    }

    /// What the log says about something that an operator had the relay do.
    pub fn from_operator_action(ordered: OperatorAction) -> Self {
        let OperatorAction { at, data, operator, reason } = ordered;
        let what = TrailEventKind::OperatorAction(data.kind());
        let (upstream, about) = match data {
            OperatorActionData::SinkReplay { sink, since } => (None, format!("{sink} since {since}")),
            OperatorActionData::StoreRebuild { despite_damage: true } => (None, DESPITE_DAMAGE.to_owned()),
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

    /// What a trail says about a report on one of its recipients.
    pub fn from_dsn(about: &ReportedRecipient, report: TrackingId) -> Self {
        Self {
            recipients: vec![about.recipient_index],
            diagnostic: Diagnostic { text: Some(report.to_string()), ..Diagnostic::default() },
            ..Self::new(report.timestamp(), TrailEventKind::DsnSent(about.action), TrailSource::Relay)
        }
    }
}

/// What was done, with the reason where there is one.
fn append_reason(what: String, reason: &str) -> String {
    match (what.is_empty(), reason.is_empty()) {
        (_, true) => what,
        (true, false) => reason.to_owned(),
        (false, false) => format!("{what}: {reason}"),
    }
}

const LIST_UNSUBSCRIBE_REWRITTEN: &str = "List-Unsubscribe repaired";
const DESPITE_DAMAGE: &str = "despite damage";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailEventKind {
    /// We took the mail.
    Accepted,
    /// An attempt ended, and this is where the recipients stand.
    Attempted(AttemptStatus),
    /// The provider reported this.
    EventReceived(EventKind),
    /// The client handed it in again.
    Resubmitted,
    /// The sender was told, by a send of its own.
    DsnSent(DsnAction),
    /// An operator did this.
    QueueAction(QueueVerb),
    /// An operator opened or closed the upstream's breaker.
    BreakerSwitched {
        /// Or else closed.
        open: bool,
    },
    /// A provider's report could not be understood.
    DeadLettered,
    /// An operator had a report read anew.
    EventReplayed,
    /// An address was put on a suppression list.
    SuppressionChanged {
        /// Or else taken off.
        added: bool,
    },
    /// A mail from outside went a step.
    Inbound(InboundStep),
    /// An operator had an address erased.
    AddressErased,
    /// An operator had the relay do this.
    OperatorAction(OperatorActionKind),
}

/// A step of a mail from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundStep {
    /// It came.
    Received,
    /// It came, and is the same as another.
    Duplicate,
    /// A target took it.
    Delivered,
    /// A target did not take it, for now.
    Deferred,
    /// It is a dead letter.
    DeadLettered,
    /// An operator wants it delivered.
    Released,
}

impl InboundStep {
    /// Every step.
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
    /// The words of all facts.
    pub fn all_names() -> BTreeSet<&'static str> {
        let told = [DsnAction::Failed, DsnAction::Delivered].map(Self::DsnSent);
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
            .chain(told)
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

    /// The word of the event vocabulary.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Attempted(AttemptStatus::Queued) => "deferred",
            Self::Attempted(AttemptStatus::Expired) => "failed",
            Self::Attempted(standing) => standing.as_str(),
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
            Self::OperatorAction(chore) => chore.as_str(),
        }
    }
}

/// How we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailSource {
    /// A client handed the mail to us.
    Client,
    /// An upstream answered us, or did not.
    Attempt,
    /// A provider's webhook.
    Webhook,
    /// A provider, when we asked it.
    Poll,
    /// Our own doing.
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
    /// The word for tables and JSON.
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

/// How an event found its send: the rungs of the join ladder, surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrelatedBy {
    /// By the tracking id that we stamped.
    TrackingId,
    /// By Message-ID and recipient.
    MessageId,
}

impl CorrelatedBy {
    /// The word for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrackingId => "tracking-id",
            Self::MessageId => "message-id",
        }
    }
}
