use crate::log_line::LogLine;
use mailtrail_mail::Timestamp;
use mailtrail_store::{DelayedDelivery, LogCursor, LogEntry};
use mailtrail_trail::Trail;
use serde::Serialize;

/// An event for a sink.
#[derive(Clone, Debug)]
pub struct SinkEvent {
    /// Position of its record in the journal.
    pub cursor: LogCursor,
    /// Index of the entry in the record.
    pub index: u16,
    /// The event.
    pub entry: LogEntry,
    /// Current trail of its message; absent for an unmatched event.
    pub trail: Option<Trail>,
    /// Recipients, by their indices in the envelope, that a newer message with the same Message-ID went to.
    /// Only determined if the sink uses them.
    pub superseded: Vec<u16>,
    /// Time until which the sink delayed the event, if it did.
    pub delayed: Option<Timestamp>,
}

/// JSON form of an event.
#[derive(Serialize)]
struct SinkPayload {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: LogLine,
}

impl SinkEvent {
    /// Returns the event's id, identical in every delivery.
    pub fn id(&self) -> String {
        format!("{}.{}", self.cursor, self.index)
    }

    /// Returns the delay that the event comes from, if it was delayed.
    pub fn to_delayed(&self) -> Option<DelayedDelivery> {
        let retry_at = self.delayed?;
        Some(DelayedDelivery { retry_at, cursor: self.cursor, index: self.index })
    }

    /// Returns the event as one line of JSON: `id`, `type` (`mail.` and the event's word), `timestamp`
    /// (when it was recorded), and `data` with the fields of `mailtrail --json log`.
    pub fn to_json(&self) -> String {
        let message = SinkPayload {
            id: self.id(),
            kind: format!("mail.{}", self.entry.event.kind.as_str()),
            timestamp: self.entry.recorded_at.to_string(),
            data: LogLine::new(&self.entry, self.trail.as_ref()),
        };
        serde_json::to_string(&message).expect("texts and numbers always have a JSON form")
    }
}
