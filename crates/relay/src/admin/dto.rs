//! Response types of the API. Fields are only ever added.

use crate::log_line::TimelineEntry;
use mailtrail_mail::{Notify, Ret, Timestamp};
use mailtrail_trail::{AttemptStatus, MarkKind, QueueKey, Recipient, RecipientState, Trail, TrailEventKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A message with its recipients and timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrailView {
    /// Tracking id.
    pub id: String,
    /// Time of acceptance, RFC 3339.
    pub accepted: String,
    /// Client label.
    pub client: String,
    /// User that submitted it.
    pub user: Option<String>,
    /// Network address of the client.
    pub peer: Option<String>,
    /// Sender of the envelope, empty for `<>`.
    pub from: String,
    /// Subject.
    pub subject: String,
    /// Message-ID without brackets.
    pub message_id: Option<String>,
    /// Odoo record, `model,id`.
    pub record: Option<String>,
    /// URL of the record in Odoo, if a sink configures which Odoo it is.
    #[serde(default)]
    pub record_url: Option<String>,
    /// Tags of the message.
    pub tags: Vec<String>,
    /// Size in bytes.
    pub size: u64,
    /// Lane: `transactional` or `bulk`.
    pub lane: String,
    /// Matching route, if any.
    pub route: Option<String>,
    /// Number of attempts.
    pub attempts: u32,
    /// Recipients in the order of the envelope.
    pub recipients: Vec<RecipientView>,
    /// The client's envelope id, `ENVID=` (RFC 3461).
    pub envid: Option<String>,
    /// Part of the message returned in a DSN, `RET=`: `full` or `hdrs`.
    pub ret: Option<String>,
    /// Description of the next action; absent if none is due.
    pub next_action: Option<String>,
    /// Time of the next action, RFC 3339.
    pub next_at: Option<String>,
    /// Events, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

/// A recipient.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecipientView {
    /// Address.
    pub address: String,
    /// State.
    pub state: String,
    /// Reason of the state.
    pub reason: Option<String>,
    /// Conditions for a DSN, `NOTIFY=` (RFC 3461): `never`, or some of `success,failure,delay`.
    pub notify: Option<String>,
    /// Address before any forwarding, `ORCPT=`.
    pub orcpt: Option<String>,
    /// Received events by kind; `-by-machine` kinds are separate.
    pub marks: BTreeMap<String, EventMarkView>,
}

/// First time, last time and number of events of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventMarkView {
    /// Time of the first event, RFC 3339.
    pub first: String,
    /// Time of the last event, RFC 3339.
    pub last: String,
    /// Number of events.
    pub count: u32,
}

/// A queued message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueLine {
    /// Tracking id.
    pub id: String,
    /// Time of acceptance, RFC 3339.
    pub accepted: String,
    /// State: `queued`, `sending`, `unknown` or `held`.
    pub state: String,
    /// Time of the next attempt, RFC 3339; absent for held messages and during an operator's breaker
    /// override.
    pub next_at: Option<String>,
    /// Number of attempts.
    pub attempts: u32,
    /// Lane: `transactional` or `bulk`.
    pub lane: String,
    /// Size in bytes.
    pub size: u64,
    /// Sender of the envelope.
    pub from: String,
    /// Waiting recipients.
    pub to: Vec<String>,
    /// Reason for the wait.
    pub reason: Option<String>,
}

/// Breaker of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerView {
    /// Upstream.
    pub upstream: String,
    /// Host of the upstream.
    #[serde(default)]
    pub host: String,
    /// State: `closed`, `open` or `half-open`.
    pub state: String,
    /// Time of the next probe while open, RFC 3339; an operator's override has none.
    pub until: Option<String>,
    /// Reason for not being closed.
    pub reason: Option<String>,
    /// Number of open connections.
    pub connections: usize,
    /// Rate in messages per minute to which throttling replies have reduced the upstream.
    pub slowed_to: Option<f64>,
    /// Time until which the upstream asked for no mail, RFC 3339.
    pub paused_until: Option<String>,
    /// Used share of the quota in percent.
    pub quota_used: Option<u64>,
}

/// Action on queued messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueActionRequest {
    /// Action: `retry`, `hold`, `release`, `bounce` or `delete`.
    pub verb: String,
    /// Tracking ids.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Alternatively: messages with an open recipient at this domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Alternatively: messages that would take this upstream.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Alternatively: all queued messages.
    #[serde(default)]
    pub all: bool,
    /// Reason; required for actions that end messages.
    #[serde(default)]
    pub reason: String,
    /// Whether to report the action without performing it.
    #[serde(default)]
    pub dry_run: bool,
}

/// Result of an action on one message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueActionResult {
    /// Tracking id, or the requested id if it matches none.
    pub id: String,
    /// Whether the action was performed, or would be.
    pub done: bool,
    /// Reason for not performing it.
    pub why: Option<String>,
}

/// Action on a breaker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerRequest {
    /// Whether to open it until it is closed again, or to close it.
    pub open: bool,
    /// Reason.
    #[serde(default)]
    pub reason: String,
}

/// Age distribution of the queued recipients of one upstream and one recipient domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueShape {
    /// Upstream that the messages would take.
    pub upstream: String,
    /// Domain of the recipients.
    pub domain: String,
    /// Number of recipients.
    pub total: u64,
    /// Numbers by age: below each of [`QueueShape::AGE_LIMITS_MINUTES`], and the rest.
    pub ages: Vec<u64>,
}

impl QueueShape {
    /// Limits of the age classes in minutes, equal to those of Postfix's `qshape`.
    pub const AGE_LIMITS_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];
}

/// An active alarm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlarmView {
    /// Kind of the alarm.
    pub alarm: String,
    /// Subject of the alarm.
    pub subject: String,
    /// Description.
    pub text: String,
    /// Start, RFC 3339.
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
            lane: send.lane.as_str().to_owned(),
            route: send.route.as_deref().map(str::to_owned),
            attempts: trail.attempts,
            envid: send.dsn.envid.as_deref().map(str::to_owned),
            ret: send.dsn.ret.map(|ret| if ret == Ret::Full { "full" } else { "hdrs" }.to_owned()),
            recipients: (0u16..)
                .zip(&trail.recipients)
                .map(|(index, one)| to_recipient_view(trail, index, one))
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
            lane: send.lane.as_str().to_owned(),
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

fn to_recipient_view(trail: &Trail, index: u16, recipient: &Recipient) -> RecipientView {
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
    let dsn = trail.message.dsn.parameters_of(index);
    let deferrals = upstream_deferrals(trail, index);
    if let (Some(first), Some(last)) = (deferrals.first(), deferrals.last()) {
        let count = u32::try_from(deferrals.len()).unwrap_or(u32::MAX);
        let mark = EventMarkView { first: first.to_string(), last: last.to_string(), count };
        marks.entry(TrailEventKind::Attempted(AttemptStatus::Queued).as_str().to_owned()).or_insert(mark);
    }
    RecipientView {
        address: recipient.address.to_string(),
        state: displayed_state(trail, recipient).as_str().to_owned(),
        reason: recipient.explanation(),
        notify: dsn.and_then(|dsn| dsn.notify).map(notify_keywords),
        orcpt: dsn.and_then(|dsn| dsn.orcpt.as_deref()).map(str::to_owned),
        marks,
    }
}

fn notify_keywords(notify: Notify) -> String {
    let words = [(notify.success, "success"), (notify.failure, "failure"), (notify.delay, "delay")];
    let wanted: Vec<_> = words.into_iter().filter(|(wanted, _)| *wanted).map(|(_, word)| word).collect();
    if wanted.is_empty() { "never".to_owned() } else { wanted.join(",") }
}

/// Returns the times at which the upstream deferred a recipient.
fn upstream_deferrals(trail: &Trail, index: u16) -> Vec<Timestamp> {
    let deferred =
        trail.events.iter().filter(|fact| fact.kind == TrailEventKind::Attempted(AttemptStatus::Queued));
    deferred.filter(|fact| fact.recipients.contains(&index)).map(|fact| fact.at).collect()
}
