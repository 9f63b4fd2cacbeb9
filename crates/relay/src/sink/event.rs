use crate::log_line::LogLine;
use mailtrail_mail::Timestamp;
use mailtrail_store::{DelayedDelivery, LogCursor, LogEntry};
use mailtrail_trail::Trail;
use serde::Serialize;

/// One thing that a sink is told.
#[derive(Clone, Debug)]
pub struct SinkEvent {
    /// The record it comes from.
    pub cursor: LogCursor,
    /// Which of the record's entries it is.
    pub index: u16,
    /// What happened.
    pub entry: LogEntry,
    /// Its send as it is now; absent for an event that found none.
    pub trail: Option<Trail>,
    /// Recipients, by their places in the envelope, that a newer send of the same mail went to. Only looked for where
    /// the sink cares.
    pub superseded: Vec<u16>,
    /// Until when the sink delayed it, if it did.
    pub delayed: Option<Timestamp>,
}

/// An item as JSON.
#[derive(Serialize)]
struct SinkPayload {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: LogLine,
}

impl SinkEvent {
    /// The same for the same thing, whenever it is told.
    pub fn id(&self) -> String {
        format!("{}.{}", self.cursor, self.index)
    }

    /// The delay that it comes from, if it was delayed.
    pub fn to_delayed(&self) -> Option<DelayedDelivery> {
        let retry_at = self.delayed?;
        Some(DelayedDelivery { retry_at, cursor: self.cursor, index: self.index })
    }

    /// One JSON object in one line: `id`, `type` (`mail.` and the event's word), `timestamp` (when it was noted), and `data`
    /// with the fields of `mailtrail --json log`.
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
