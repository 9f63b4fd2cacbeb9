use crate::provider_event::Diagnostic;
use crate::queue_action::DsnAction;
use crate::recipient_state::AttemptStatus;
use mailtrail_mail::{BodyType, DsnParameters, Lane, Mailbox, MessageId, OdooRecord, Timestamp, TrackingId};
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
