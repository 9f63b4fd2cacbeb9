use crate::provider_event::{Diagnostic, ProviderEvent};
use crate::recipient::{AttemptStatus, Recipient, RecipientState};
use crate::trail_event::TrailEvent;
use mailtrail_mail::{
    BodyType, DsnParameters, Lane, Mailbox, MessageId, Notify, OdooRecord, Timestamp, TrackingId,
};
use std::net::IpAddr;

/// One accepted SMTP transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Tracking id; also holds the time of acceptance.
    pub id: TrackingId,
    /// Label of the submitting client.
    pub client: String,
    /// Submitting user, if the client was logged in.
    pub user: Option<String>,
    /// IP address of the client.
    pub peer: Option<IpAddr>,
    /// Envelope sender; `None` is `<>`.
    pub sender: Option<Mailbox>,
    /// Whether the body holds 8-bit text.
    pub body_type: BodyType,
    /// Whether the header section needs SMTPUTF8 and the client asked for it. Addresses are judged on their
    /// own.
    pub smtputf8: bool,
    /// DSN parameters of the client.
    pub dsn: DsnParameters,
    /// Whether the sender gets DSNs for failed recipients: there is a sender, and DSNs were enabled at
    /// acceptance.
    pub wants_dsn: bool,
    /// Recipient that this message reports on, if it is a DSN.
    pub dsn_for: Option<ReportedRecipient>,
    /// Message-ID of the relayed message.
    pub message_id: Option<MessageId>,
    /// Subject, decoded and shortened.
    pub subject: String,
    /// Odoo records that the message refers to; the primary one first.
    pub odoo_records: Vec<OdooRecord>,
    /// Tags set by the client.
    pub tags: Vec<String>,
    /// Size in bytes, including our header lines.
    pub size: u64,
    /// Fingerprint of the body after the header section, for recognising duplicates; `None` if deduplication
    /// is off.
    pub body_fingerprint: Option<u64>,
    /// Lane: priority class, transactional before bulk.
    pub lane: Lane,
    /// Name of the route; `None` for all upstreams in their order.
    pub route: Option<Box<str>>,
    /// Whether an unreadable `List-Unsubscribe` was rewritten in plain form.
    pub list_unsubscribe_rewritten: bool,
    /// Descriptions of the other changes to the header section.
    pub header_changes: Vec<String>,
}

impl Message {
    /// Creates a message with default values: null sender, no header data.
    pub fn new(id: TrackingId, client: impl Into<String>) -> Self {
        Self {
            id,
            client: client.into(),
            user: None,
            peer: None,
            sender: None,
            body_type: BodyType::SevenBit,
            smtputf8: false,
            dsn: DsnParameters::default(),
            wants_dsn: false,
            dsn_for: None,
            message_id: None,
            subject: String::new(),
            odoo_records: Vec::new(),
            tags: Vec::new(),
            size: 0,
            body_fingerprint: None,
            lane: Lane::default(),
            route: None,
            list_unsubscribe_rewritten: false,
            header_changes: Vec::new(),
        }
    }
}

/// Condition that an open message waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueKey {
    /// Any upstream of the route; `None`: any upstream, in their order.
    Route(Option<Box<str>>),
    /// Any upstream of the route, except those that cannot accept the message.
    RouteExcept {
        /// The route.
        route: Option<Box<str>>,
        /// Upstreams that could not accept the message.
        excluded: Vec<Box<str>>,
    },
    /// One upstream only: it may have the message already, so no other one gets it. If it no longer exists,
    /// its route.
    Upstream {
        /// Name of the upstream.
        name: Box<str>,
        /// Route of the message.
        route: Option<Box<str>>,
    },
    /// Held by an operator.
    Held,
}

/// Recipient that a DSN is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedRecipient {
    /// The reported message.
    pub tracking_id: TrackingId,
    /// Index of the recipient in the envelope.
    pub recipient_index: u16,
    /// Reason for the DSN.
    pub action: DsnAction,
}

/// Reason why a sender gets a DSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnAction {
    /// The message cannot be delivered.
    Failed,
    /// The message was delivered, and the client requested a DSN for that.
    Delivered,
}

impl DsnAction {
    /// Returns the DSN action for a recipient in that state, if its sender gets a DSN (RFC 3461 section 4.1).
    pub fn for_state(state: RecipientState, notify: Option<Notify>) -> Option<Self> {
        let (dsn_action, is_requested) = match state {
            RecipientState::Delivered => (Self::Delivered, notify.is_some_and(|notify| notify.success)),
            state if state.is_failure() => (Self::Failed, notify.is_none_or(|notify| notify.failure)),
            _ => return None,
        };
        is_requested.then_some(dsn_action)
    }
}

/// A message as it enters the store.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedMessage {
    /// The message.
    pub message: Message,
    /// Recipients; at least one.
    pub recipients: Vec<Mailbox>,
}

impl AcceptedMessage {
    /// Removes the recipients that `which` selects, with their DSN parameters. Returns whether there were
    /// any.
    pub fn remove_recipients(&mut self, which: impl Fn(&Mailbox) -> bool) -> bool {
        let before = self.recipients.len();
        let mut dsn_recipients = std::mem::take(&mut self.message.dsn.recipients);
        let (mut remaining, mut index) = (0, 0);
        self.recipients.retain(|address| {
            let is_retained = !which(address);
            let entry = dsn_recipients.iter().position(|(recipient, _)| *recipient == index);
            if let Some(entry) = entry.filter(|_| is_retained) {
                self.message.dsn.recipients.push((remaining, dsn_recipients.swap_remove(entry).1));
            }
            remaining += u16::from(is_retained);
            index += 1;
            is_retained
        });
        self.recipients.len() < before
    }
}

/// Repeated submission of a message, which was not sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateSubmission {
    /// The message that is repeated.
    pub id: TrackingId,
    /// Time of the submission.
    pub at: Timestamp,
    /// IP address of the client.
    pub peer: Option<IpAddr>,
    /// Recipients of the submission, by their index in the original envelope.
    pub recipients: Vec<u16>,
}

/// Start of an attempt's transmission. From here on its outcome may become unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStarted {
    /// The message.
    pub id: TrackingId,
    /// Time of the start.
    pub at: Timestamp,
    /// The upstream.
    pub upstream: String,
}

/// Outcome of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptOutcome {
    /// The message.
    pub id: TrackingId,
    /// Time of the outcome.
    pub at: Timestamp,
    /// The upstream; empty if none was contacted.
    pub upstream: String,
    /// Results by recipients.
    pub results: Vec<RecipientResult>,
    /// Time of the next attempt for recipients that are still open.
    pub next_attempt: Option<Timestamp>,
}

/// Result of an attempt for some recipients.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipientResult {
    /// Indexes of the recipients in the envelope.
    pub recipients: Vec<u16>,
    /// New status of the recipients.
    pub status: AttemptStatus,
    /// Reply of the upstream, or the reason why there is none.
    pub diagnostic: Diagnostic,
}

/// Operator action on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAction {
    /// The message.
    pub id: TrackingId,
    /// Time of the action.
    pub at: Timestamp,
    /// Requested action.
    pub verb: QueueVerb,
    /// Requesting operator.
    pub operator: String,
    /// Reason of the action.
    pub reason: String,
}

impl QueueAction {
    /// Returns the operator and the reason as a diagnostic.
    pub fn to_diagnostic(&self) -> Diagnostic {
        let Self { operator, reason, .. } = self;
        Diagnostic { name: operator.clone(), text: Some(reason.clone()), ..Diagnostic::default() }
    }
}

/// Action of an operator on all open recipients of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueVerb {
    /// Attempts delivery now.
    Retry,
    /// Holds the message.
    Hold,
    /// Releases a held message.
    Release,
    /// Bounces the message; the sender gets a DSN.
    Bounce,
    /// Deletes the message without a DSN.
    Delete,
}

impl QueueVerb {
    /// All verbs.
    pub const ALL: [Self; 5] = [Self::Retry, Self::Hold, Self::Release, Self::Bounce, Self::Delete];

    /// Returns the keyword for commands, tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Delete => "delete",
        }
    }

    /// Returns the past tense, which trails use.
    pub const fn past_tense(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Bounce => "failed",
            Self::Delete => "cancelled",
        }
    }
}

/// Operator override of an upstream's circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerOverride {
    /// The upstream.
    pub upstream: String,
    /// Time of the override.
    pub at: Timestamp,
    /// Whether the breaker is kept open until an operator closes it.
    pub open: bool,
    /// Requesting operator.
    pub operator: String,
    /// Reason of the override.
    pub reason: String,
}

/// A verified provider event.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedEvent {
    /// Upstream of the sending provider.
    pub upstream: String,
    /// Time of receipt.
    pub received_at: Timestamp,
    /// Source of the event.
    pub source: EventSource,
    /// One-time token and time of the signature, if signed, and a digest of the body that came with it.
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// The decoded event.
    pub event: ProviderEvent,
}

/// Source of a provider event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// A webhook request of the provider.
    Webhook,
    /// Polling: fetched by the relay because no webhook delivered it.
    Poll,
}

/// All data about one message.
#[derive(Clone, Debug)]
pub struct Trail {
    /// The message.
    pub message: Message,
    /// Recipients in the order of the envelope.
    pub recipients: Vec<Recipient>,
    /// Events, oldest first.
    pub events: Vec<TrailEvent>,
    /// Attempts made.
    pub attempts: u32,
    /// Time of the next attempt; for a held message, the time before it was held.
    pub next_attempt: Option<Timestamp>,
    /// Queue of the message while it is open.
    pub queue_key: Option<QueueKey>,
    /// Whether an attempt is in progress.
    pub is_sending: bool,
}
