use crate::provider_event::{Diagnostic, ProviderEvent};
use crate::recipient::{AttemptStatus, Recipient, RecipientState};
use crate::trail_event::TrailEvent;
use mailtrail_mail::{BodyType, Dsn, Lane, Mailbox, MessageId, Notify, Record, Timestamp, TrackingId};
use std::net::IpAddr;

/// One SMTP transaction that we took.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its identity; also says when it was accepted.
    pub id: TrackingId,
    /// The label of the client it came from.
    pub client: String,
    /// The user that sent it, if it logged in.
    pub user: Option<String>,
    /// Where it came from.
    pub peer: Option<IpAddr>,
    /// The envelope's sender; `None` is `<>`.
    pub sender: Option<Mailbox>,
    /// Whether it holds 8-bit text.
    pub body_type: BodyType,
    /// Whether its header needs SMTPUTF8 and the client asked for it; addresses speak for themselves.
    pub smtputf8: bool,
    /// What the client asked about reports.
    pub dsn: Dsn,
    /// Whether the sender hears of recipients that failed: there is one, and reports were on when it was accepted.
    pub wants_dsn: bool,
    /// What this send reports on, if it is a report.
    pub dsn_for: Option<ReportedRecipient>,
    /// The Message-ID that it goes out with.
    pub message_id: Option<MessageId>,
    /// The subject, decoded and shortened.
    pub subject: String,
    /// Odoo's records, where the mail names some; the one it was sent about first.
    pub odoo_records: Vec<Record>,
    /// Tags that the client gave the mail.
    pub tags: Vec<String>,
    /// Bytes, our header lines included.
    pub size: u64,
    /// What the same message has again, where duplicates are looked for: of its body, behind the header.
    pub body_fingerprint: Option<u64>,
    /// Who waits for whom.
    pub lane: Lane,
    /// The name of the route it takes; `None`: the upstreams in their order.
    pub route: Option<Box<str>>,
    /// Whether its `List-Unsubscribe`, which nobody could read, was written plainly.
    pub list_unsubscribe_rewritten: bool,
    /// What else was changed in its header, each in some words.
    pub header_changes: Vec<String>,
}

impl Message {
    /// A send about which nothing else is known: from nobody, without a header.
    pub fn new(id: TrackingId, client: impl Into<String>) -> Self {
        Self {
            id,
            client: client.into(),
            user: None,
            peer: None,
            sender: None,
            body_type: BodyType::SevenBit,
            smtputf8: false,
            dsn: Dsn::default(),
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

/// What an open send waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueKey {
    /// An upstream of its route; `None`: any, in their order.
    Route(Option<Box<str>>),
    /// An upstream of its route that is none of these: they are not able to take it.
    RouteExcept {
        /// The route.
        route: Option<Box<str>>,
        /// The upstreams that were found unable.
        excluded: Vec<Box<str>>,
    },
    /// That upstream: it may have the message already, so no other gets it. Where it is no more, its route.
    Upstream {
        /// The upstream.
        name: Box<str>,
        /// The route.
        route: Option<Box<str>>,
    },
    /// An operator.
    Held,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedRecipient {
    /// The send.
    pub tracking_id: TrackingId,
    /// Its recipient, by the place in the envelope.
    pub recipient_index: u16,
    /// Why there is a report.
    pub action: DsnAction,
}

/// Why a sender gets a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnAction {
    /// The mail cannot arrive.
    Failed,
    /// The mail arrived, and the client wanted to know.
    Delivered,
}

impl DsnAction {
    /// The occasion that a recipient in that state is, if its sender is to hear of it (RFC 3461 section 4.1).
    pub fn for_state(state: RecipientState, notify: Option<Notify>) -> Option<Self> {
        let (occasion, wanted) = match state {
            RecipientState::Delivered => (Self::Delivered, notify.is_some_and(|notify| notify.success)),
            state if state.is_failure() => (Self::Failed, notify.is_none_or(|notify| notify.failure)),
            _ => return None,
        };
        wanted.then_some(occasion)
    }
}

/// A send as it enters the store.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedMessage {
    /// What it is.
    pub message: Message,
    /// To whom; at least one.
    pub recipients: Vec<Mailbox>,
}

impl AcceptedMessage {
    /// Leaves the recipients out that `which` tells, with what was asked about them; whether there were any.
    pub fn remove_recipients(&mut self, which: impl Fn(&Mailbox) -> bool) -> bool {
        let before = self.recipients.len();
        let mut wishes = std::mem::take(&mut self.message.dsn.recipients);
        let (mut kept, mut place) = (0, 0);
        self.recipients.retain(|address| {
            let stays = !which(address);
            let wish = wishes.iter().position(|(wished, _)| *wished == place);
            if let Some(wish) = wish.filter(|_| stays) {
                self.message.dsn.recipients.push((kept, wishes.swap_remove(wish).1));
            }
            kept += u16::from(stays);
            place += 1;
            stays
        });
        self.recipients.len() < before
    }
}

/// A client handed in again what it had handed in before; it was not sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateSubmission {
    /// The send that it repeats.
    pub id: TrackingId,
    /// When.
    pub at: Timestamp,
    /// Where it came from.
    pub peer: Option<IpAddr>,
    /// The recipients it was for, by their places in that send's envelope.
    pub recipients: Vec<u16>,
}

/// An attempt goes past the point behind which its end may be unknown: the message follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStarted {
    /// Which send.
    pub id: TrackingId,
    /// When.
    pub at: Timestamp,
    /// To which upstream.
    pub upstream: String,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptOutcome {
    /// Which send.
    pub id: TrackingId,
    /// When.
    pub at: Timestamp,
    /// With which upstream; empty where none was asked.
    pub upstream: String,
    /// What became of whom.
    pub results: Vec<RecipientResult>,
    /// When to try those again that wait.
    pub next_attempt: Option<Timestamp>,
}

/// What an attempt came to for some recipients.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipientResult {
    /// Their places in the envelope.
    pub recipients: Vec<u16>,
    /// Where they stand now.
    pub status: AttemptStatus,
    /// What the upstream said, or why there was nothing to hear.
    pub diagnostic: Diagnostic,
}

/// An operator changed what becomes of a send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAction {
    /// Which send.
    pub id: TrackingId,
    /// When.
    pub at: Timestamp,
    /// What was asked for.
    pub verb: QueueVerb,
    /// Who asked.
    pub operator: String,
    /// Why.
    pub reason: String,
}

impl QueueAction {
    /// Who and why.
    pub fn to_diagnostic(&self) -> Diagnostic {
        let Self { operator, reason, .. } = self;
        Diagnostic { name: operator.clone(), text: Some(reason.clone()), ..Diagnostic::default() }
    }
}

/// What an operator may ask for, for all open recipients of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueVerb {
    /// To try it now.
    Retry,
    /// To keep it back.
    Hold,
    /// To let it go again.
    Release,
    /// To give it up; the sender is told.
    Bounce,
    /// To take it out; nobody is told.
    Delete,
}

impl QueueVerb {
    /// Every verb.
    pub const ALL: [Self; 5] = [Self::Retry, Self::Hold, Self::Release, Self::Bounce, Self::Delete];

    /// The word for commands, tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Delete => "delete",
        }
    }

    /// What the trail calls it.
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

/// An operator opened or closed an upstream's breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerOverride {
    /// The upstream.
    pub upstream: String,
    /// When.
    pub at: Timestamp,
    /// Whether it is kept open from now on, until an operator closes it.
    pub open: bool,
    /// Who asked.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// A provider's report, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedEvent {
    /// The upstream whose provider sent it.
    pub upstream: String,
    /// When it came.
    pub received_at: Timestamp,
    /// Which way it came.
    pub source: EventSource,
    /// The signature's one-time token, when it was signed, and a digest of the body it came with.
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// What it reports.
    pub event: ProviderEvent,
}

/// Which way a provider's report came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// The provider posted it.
    Webhook,
    /// We asked the provider for what its webhooks did not bring.
    Poll,
}

/// Everything that is known about one send.
#[derive(Clone, Debug)]
pub struct Trail {
    /// The send.
    pub message: Message,
    /// Its recipients in the order of the envelope.
    pub recipients: Vec<Recipient>,
    /// What happened, oldest first.
    pub events: Vec<TrailEvent>,
    /// Attempts made.
    pub attempts: u32,
    /// When the next attempt is due, or was to be when it was held.
    pub next_attempt: Option<Timestamp>,
    /// What it waits for, while it is open.
    pub queue_key: Option<QueueKey>,
    /// Whether an attempt is under way.
    pub is_sending: bool,
}
