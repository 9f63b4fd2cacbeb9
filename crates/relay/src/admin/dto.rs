//! The answers' own types. Fields are only ever added.

use crate::log_line::TimelineEntry;
use mailtrail_mail::{Notify, Ret, Timestamp};
use mailtrail_trail::{AttemptStatus, MarkKind, QueueKey, Recipient, RecipientState, Trail, TrailEventKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything about one send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrailView {
    /// The tracking id.
    pub id: String,
    /// When it was accepted, RFC 3339.
    pub accepted: String,
    /// The client's label.
    pub client: String,
    /// The user that sent it.
    pub user: Option<String>,
    /// Where it came from.
    pub peer: Option<String>,
    /// The envelope's sender, empty for `<>`.
    pub from: String,
    /// The subject.
    pub subject: String,
    /// The Message-ID without brackets.
    pub message_id: Option<String>,
    /// Odoo's record, `model,id`.
    pub record: Option<String>,
    /// Where Odoo shows it, if a sink says which Odoo it is.
    #[serde(default)]
    pub record_url: Option<String>,
    /// The mail's tags.
    pub tags: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// `transactional` or `bulk`.
    pub lane: String,
    /// The route it takes, if one fits.
    pub route: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// The recipients, in the envelope's order.
    pub recipients: Vec<RecipientView>,
    /// The client's name for the transaction, `ENVID=` (RFC 3461).
    pub envid: Option<String>,
    /// How much of the message a report is to bring back, `RET=`: `full` or `hdrs`.
    pub ret: Option<String>,
    /// What happens next, in words; absent when nothing is to be done.
    pub next_action: Option<String>,
    /// When, RFC 3339.
    pub next_at: Option<String>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

/// One recipient.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecipientView {
    /// The address.
    pub address: String,
    /// Its state.
    pub state: String,
    /// The words behind the state.
    pub reason: Option<String>,
    /// When the client wants a report, `NOTIFY=` (RFC 3461): `never`, or some of `success,failure,delay`.
    pub notify: Option<String>,
    /// The address before any forwarding, `ORCPT=`.
    pub orcpt: Option<String>,
    /// What was reported, by kind; `-by-machine` kinds apart.
    pub marks: BTreeMap<String, EventMarkView>,
}

/// First, last and number of one kind of event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventMarkView {
    /// The earliest, RFC 3339.
    pub first: String,
    /// The latest, RFC 3339.
    pub last: String,
    /// How many.
    pub count: u32,
}

/// One waiting send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueLine {
    /// The tracking id.
    pub id: String,
    /// When it was accepted, RFC 3339.
    pub accepted: String,
    /// `queued`, `sending`, `unknown` or `held`.
    pub state: String,
    /// When its next attempt is due, RFC 3339; absent for what is held, and for what waits for an operator's breaker.
    pub next_at: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// `transactional` or `bulk`.
    pub lane: String,
    /// Bytes.
    pub size: u64,
    /// The envelope's sender.
    pub from: String,
    /// The recipients that wait.
    pub to: Vec<String>,
    /// Why they wait.
    pub reason: Option<String>,
}

/// One upstream's breaker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerView {
    /// The upstream.
    pub upstream: String,
    /// The host that its mail goes to.
    #[serde(default)]
    pub host: String,
    /// `closed`, `open` or `half-open`.
    pub state: String,
    /// When an open one is probed, RFC 3339; an operator's has no end.
    pub until: Option<String>,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// Connections open now.
    pub connections: usize,
    /// Messages a minute that the upstream is slowed down to after its complaints.
    pub slowed_to: Option<f64>,
    /// Until when it takes nothing by its own words, RFC 3339.
    pub paused_until: Option<String>,
    /// Of its quota, in percent.
    pub quota_used: Option<u64>,
}

/// What is to be done with waiting mail.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueActionRequest {
    /// `retry`, `hold`, `release`, `bounce` or `delete`.
    pub verb: String,
    /// Tracking ids.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Or: mail with an open recipient at that domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Or: mail that would take that upstream.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Or: all mail that waits.
    #[serde(default)]
    pub all: bool,
    /// Why; what ends mail needs one.
    #[serde(default)]
    pub reason: String,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was done with one send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueActionResult {
    /// Its tracking id; as it was asked for where that names none.
    pub id: String,
    /// Whether it was done, or would be.
    pub done: bool,
    /// Why not.
    pub why: Option<String>,
}

/// What is to be done with a breaker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerRequest {
    /// To open it until it is closed again, or else to close it.
    pub open: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// How old the mail is that waits for one upstream and one recipient domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueShape {
    /// The upstream that it would take.
    pub upstream: String,
    /// The recipients' domain.
    pub domain: String,
    /// Recipients.
    pub total: u64,
    /// Of these, by age: below each of [`Shape::MINUTES`], and the rest.
    pub ages: Vec<u64>,
}

impl QueueShape {
    /// The ends of the ages, in minutes: Postfix's `qshape` has the same.
    pub const AGE_LIMITS_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];
}

/// One alarm that is on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlarmView {
    /// What kind of trouble.
    pub alarm: String,
    /// With what.
    pub subject: String,
    /// What is known.
    pub text: String,
    /// Since when, RFC 3339.
    pub since: String,
}

impl From<&Trail> for TrailView {
    fn from(trail: &Trail) -> Self {
        let send = &trail.message;
        let (next_action, next_at) = next_action(trail);
        Self {
            id: send.id.to_string(),
            accepted: send.id.timestamp().to_string(),
            client: send.client.clone(),
            user: send.user.clone(),
            peer: send.peer.map(|peer| peer.to_string()),
            from: send.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            subject: send.subject.clone(),
            message_id: send.message_id.as_ref().map(ToString::to_string),
            record: send.odoo_records.first().map(ToString::to_string),
            record_url: None,
            tags: send.tags.clone(),
            size: send.size,
            lane: send.lane.word().to_owned(),
            route: send.route.as_deref().map(str::to_owned),
            attempts: trail.attempts,
            envid: send.dsn.envid.as_deref().map(str::to_owned),
            ret: send.dsn.ret.map(|ret| if ret == Ret::Full { "full" } else { "hdrs" }.to_owned()),
            recipients: (0u16..)
                .zip(&trail.recipients)
                .map(|(place, one)| to_recipient_view(trail, place, one))
                .collect(),
            next_action,
            next_at,
            timeline: trail.events.iter().map(|fact| TimelineEntry::new(fact, Some(trail))).collect(),
        }
    }
}

impl From<&Trail> for QueueLine {
    fn from(trail: &Trail) -> Self {
        let send = &trail.message;
        let waiting = || trail.recipients.iter().filter(|recipient| recipient.is_open());
        Self {
            id: send.id.to_string(),
            accepted: send.id.timestamp().to_string(),
            state: waiting()
                .next()
                .map_or(RecipientState::Queued, |first| displayed_state(trail, first))
                .as_str()
                .to_owned(),
            next_at: next_action(trail).1,
            attempts: trail.attempts,
            lane: send.lane.word().to_owned(),
            size: send.size,
            from: send.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: waiting().map(|recipient| recipient.address.to_string()).collect(),
            reason: waiting().find_map(|recipient| recipient.explanation()),
        }
    }
}

fn next_action(trail: &Trail) -> (Option<String>, Option<String>) {
    let waiting = || trail.recipients.iter().filter(|recipient| recipient.is_open());
    if trail.queue_key == Some(QueueKey::Held) {
        return (Some("held until an operator releases it, or its deadline comes".to_owned()), None);
    }
    if waiting().next().is_none() {
        return (None, None);
    }
    let at = trail.next_attempt.map(|due| due.to_string());
    let action = if trail.is_sending {
        "an attempt is under way"
    } else if waiting().any(|recipient| recipient.state() == RecipientState::Unknown) {
        "waits for the provider's event; without one it is sent again"
    } else if let Some(QueueKey::RouteExcept { excluded, .. }) = &trail.queue_key {
        let action = format!("attempt by another upstream: not able to take it: {}", excluded.join(", "));
        return (Some(action), at);
    } else {
        "attempt"
    };
    (Some(action.to_owned()), at)
}

fn displayed_state(trail: &Trail, recipient: &Recipient) -> RecipientState {
    match recipient.state() {
        RecipientState::Queued if trail.is_sending => RecipientState::Sending,
        state => state,
    }
}

fn to_recipient_view(trail: &Trail, place: u16, recipient: &Recipient) -> RecipientView {
    let marks = recipient.marks.iter().map(|(kind, mark)| {
        let name = match kind {
            MarkKind::Person(kind) => kind.as_str().to_owned(),
            MarkKind::Automated(kind) => format!("{}-by-machine", kind.as_str()),
        };
        let view =
            EventMarkView { first: mark.first.to_string(), last: mark.last.to_string(), count: mark.count };
        (name, view)
    });
    let mut marks: BTreeMap<_, _> = marks.collect();
    let wish = trail.message.dsn.recipient(place);
    let deferrals = upstream_deferrals(trail, place);
    if let (Some(first), Some(last)) = (deferrals.first(), deferrals.last()) {
        let count = u32::try_from(deferrals.len()).unwrap_or(u32::MAX);
        let mark = EventMarkView { first: first.to_string(), last: last.to_string(), count };
        marks.entry(TrailEventKind::Attempted(AttemptStatus::Queued).as_str().to_owned()).or_insert(mark);
    }
    RecipientView {
        address: recipient.address.to_string(),
        state: displayed_state(trail, recipient).as_str().to_owned(),
        reason: recipient.explanation(),
        notify: wish.and_then(|wish| wish.notify).map(notify_keywords),
        orcpt: wish.and_then(|wish| wish.orcpt.as_deref()).map(str::to_owned),
        marks,
    }
}

fn notify_keywords(notify: Notify) -> String {
    let words = [(notify.success, "success"), (notify.failure, "failure"), (notify.delay, "delay")];
    let wanted: Vec<_> = words.into_iter().filter(|(wanted, _)| *wanted).map(|(_, word)| word).collect();
    if wanted.is_empty() { "never".to_owned() } else { wanted.join(",") }
}

/// When the upstream refused a recipient for now.
fn upstream_deferrals(trail: &Trail, place: u16) -> Vec<Timestamp> {
    let deferred =
        trail.events.iter().filter(|fact| fact.kind == TrailEventKind::Attempted(AttemptStatus::Queued));
    deferred.filter(|fact| fact.recipients.contains(&place)).map(|fact| fact.at).collect()
}
