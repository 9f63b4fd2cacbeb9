use crate::log_line::LogLine;
use mailtrail_mail::Timestamp;
use mailtrail_store::{Cursor, Delayed, Entry};
use mailtrail_trail::Trail;
use serde::Serialize;

/// One thing that a sink is told.
#[derive(Clone, Debug)]
pub struct Item {
    /// The record it comes from.
    pub cursor: Cursor,
    /// Which of the record's entries it is.
    pub part: u16,
    /// What happened.
    pub entry: Entry,
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
struct Message {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: LogLine,
}

impl Item {
    /// The same for the same thing, whenever it is told.
    pub fn id(&self) -> String {
        format!("{}.{}", self.cursor, self.part)
    }

    /// The delay that it comes from, if it was delayed.
    pub fn as_delayed(&self) -> Option<Delayed> {
        let due = self.delayed?;
        Some(Delayed { due, cursor: self.cursor, part: self.part })
    }

    /// One JSON object in one line: `id`, `type` (`mail.` and the event's word), `timestamp` (when it was noted), and `data`
    /// with the fields of `mailtrail --json log`.
    pub fn json(&self) -> String {
        let message = Message {
            id: self.id(),
            kind: format!("mail.{}", self.entry.fact.what.word()),
            timestamp: self.entry.written.to_string(),
            data: LogLine::new(&self.entry, self.trail.as_ref()),
        };
        serde_json::to_string(&message).expect("texts and numbers always have a JSON form")
    }
}
