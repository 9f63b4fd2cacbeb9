use crate::ledger::Trail;
use crate::line::LogLine;
use crate::store::{Cursor, Entry};
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
