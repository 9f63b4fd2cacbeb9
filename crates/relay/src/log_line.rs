//! What happened, a line a fact, as JSON has it: in the log, in a trail's timeline, and for whoever is told. Fields are only
//! ever added.

use mailtrail_store::LogEntry;
use mailtrail_trail::{Trail, TrailEvent};
use serde::{Deserialize, Serialize};

/// One line of a timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// When, RFC 3339.
    pub at: String,
    /// What, in the event vocabulary.
    pub event: String,
    /// How we know: `client`, `smtp`, `webhook`, `mailtrail` or `operator`.
    pub source: String,
    /// The upstream it has to do with.
    pub upstream: Option<String>,
    /// Whom it concerns; empty: all recipients.
    pub recipients: Vec<String>,
    /// The provider's name for it, or the SMTP step.
    pub name: Option<String>,
    /// The code that came with it.
    pub code: Option<u16>,
    /// The enhanced status that came with it.
    pub enhanced: Option<String>,
    /// The words that came with it.
    pub text: Option<String>,
    /// The host it is about.
    pub host: Option<String>,
    /// The link that was clicked.
    pub url: Option<String>,
    /// How an event found its send: `tracking-id` or `message-id`.
    pub joined_by: Option<String>,
    /// Whether software did it, not a person.
    pub by_machine: bool,
    /// When the next attempt is due because of it, RFC 3339.
    pub next_attempt: Option<String>,
}

/// One line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// The tracking id; absent for an event that found no send.
    pub id: Option<String>,
    /// The client's label.
    pub client: Option<String>,
    /// The envelope's sender.
    pub from: Option<String>,
    /// The Message-ID without brackets.
    pub message_id: Option<String>,
    /// Odoo's record, `model,id`.
    pub record: Option<String>,
    /// Where Odoo shows it, if a sink says which Odoo it is.
    #[serde(default)]
    pub record_url: Option<String>,
    /// The subject.
    pub subject: Option<String>,
    /// The mail's tags.
    pub tags: Vec<String>,
    /// What happened.
    #[serde(flatten)]
    pub entry: TimelineEntry,
}

impl LogLine {
    /// A line with what is known about its send.
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

/// Recipients that a log line about all of them names.
const MAX_LISTED_RECIPIENTS: usize = 10;

impl TimelineEntry {
    /// A fact; the trail names its recipients.
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
