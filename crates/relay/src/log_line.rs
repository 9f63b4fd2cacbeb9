//! JSON form of trail events, one line per event: in the log, in a trail's timeline, and for sinks. Fields
//! are only ever added.

use mailtrail_store::LogEntry;
use mailtrail_trail::{Trail, TrailEvent};
use serde::{Deserialize, Serialize};

/// One line of a timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Time of the event, RFC 3339.
    pub at: String,
    /// Kind, in the event vocabulary.
    pub event: String,
    /// Source: `client`, `smtp`, `webhook`, `mailtrail` or `operator`.
    pub source: String,
    /// Upstream involved.
    pub upstream: Option<String>,
    /// Recipients concerned; empty: all.
    pub recipients: Vec<String>,
    /// The provider's name of the event, or the SMTP step.
    pub name: Option<String>,
    /// Reply or status code.
    pub code: Option<u16>,
    /// Enhanced status code.
    pub enhanced: Option<String>,
    /// Diagnostic text.
    pub text: Option<String>,
    /// Host concerned.
    pub host: Option<String>,
    /// Clicked link.
    pub url: Option<String>,
    /// Correlation of the event with its message: `tracking-id` or `message-id`.
    pub joined_by: Option<String>,
    /// Whether software caused the event rather than a person.
    pub by_machine: bool,
    /// Time of the next attempt that follows from it, RFC 3339.
    pub next_attempt: Option<String>,
}

/// One line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Tracking id; absent for an unmatched event.
    pub id: Option<String>,
    /// Client label.
    pub client: Option<String>,
    /// Sender of the envelope.
    pub from: Option<String>,
    /// Message-ID without brackets.
    pub message_id: Option<String>,
    /// Odoo record, `model,id`.
    pub record: Option<String>,
    /// URL of the record in Odoo, if a sink configures which Odoo it is.
    #[serde(default)]
    pub record_url: Option<String>,
    /// Subject.
    pub subject: Option<String>,
    /// Tags of the message.
    pub tags: Vec<String>,
    /// The event.
    #[serde(flatten)]
    pub entry: TimelineEntry,
}

impl LogLine {
    /// Creates a line with the fields of its message.
    pub fn new(entry: &LogEntry, trail: Option<&Trail>) -> Self {
        let send = trail.map(|trail| &trail.message);
        let mut fact = TimelineEntry::new(&entry.event, trail);
        let all = trail.map_or(&[][..], |trail| &trail.recipients);
        if fact.recipients.is_empty() && all.len() <= MAX_LISTED_RECIPIENTS {
            fact.recipients = all.iter().map(|recipient| recipient.address.to_string()).collect();
        }
        Self {
            id: entry.tracking_id.map(|id| id.to_string()),
            client: send.map(|send| send.client.clone()),
            from: send.map(|send| send.sender.as_ref().map(ToString::to_string).unwrap_or_default()),
            message_id: send.and_then(|send| send.message_id.as_ref()).map(ToString::to_string),
            record: send.and_then(|send| send.odoo_records.first()).map(ToString::to_string),
            record_url: None,
            subject: send.map(|send| send.subject.clone()),
            tags: send.map(|send| send.tags.clone()).unwrap_or_default(),
            entry: fact,
        }
    }
}

/// Maximum number of recipients listed in a line about all of them.
const MAX_LISTED_RECIPIENTS: usize = 10;

impl TimelineEntry {
    /// Creates an entry from an event; the trail resolves its recipients.
    pub fn new(fact: &TrailEvent, trail: Option<&Trail>) -> Self {
        let words = &fact.diagnostic;
        let known = trail.map_or(&[][..], |trail| &trail.recipients);
        let named =
            |place: &u16| known.get(usize::from(*place)).map(|recipient| recipient.address.to_string());
        Self {
            at: fact.at.to_string(),
            event: fact.kind.as_str().to_owned(),
            source: fact.source.as_str().to_owned(),
            upstream: fact.upstream.clone(),
            recipients: fact.recipients.iter().filter_map(named).collect(),
            name: (!words.name.is_empty()).then(|| words.name.clone()),
            code: words.code,
            enhanced: words.enhanced_status.clone(),
            text: words.text_without_status().filter(|text| !text.is_empty()).map(str::to_owned),
            host: words.host.clone(),
            url: words.url.clone(),
            joined_by: fact.correlated_by.map(|rung| rung.as_str().to_owned()),
            by_machine: fact.automated,
            next_attempt: fact.next_attempt.map(|due| due.to_string()),
        }
    }
}
