//! Positions of sinks in the journal. Sinks read the journal itself, each from its own stored position; there
//! is no separate queue. Nothing is stored twice, nothing is lost that the journal still has, and the order
//! is the order of writing.

use crate::log_cursor::LogCursor;
use mailtrail_mail::Timestamp;

/// Progress of a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkAck {
    /// Name of the sink.
    pub sink: String,
    /// Time of the acknowledgement.
    pub at: Timestamp,
    /// Position before which the sink accepted or rejected everything.
    pub position: LogCursor,
    /// Entries permanently rejected since the last acknowledgement: record, index of the entry, and reason.
    pub dead_letters: Vec<(LogCursor, u16, String)>,
    /// Entries delayed since the last acknowledgement; each is offered again on its own.
    pub delayed: Vec<DelayedDelivery>,
    /// Delays that ended since the last acknowledgement.
    pub resumed: Vec<DelayedDelivery>,
}

/// An entry that a sink receives later than the entries after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedDelivery {
    /// Time at which the entry is offered again.
    pub retry_at: Timestamp,
    /// Position of the record.
    pub cursor: LogCursor,
    /// Index of the entry within the record.
    pub index: u16,
}
