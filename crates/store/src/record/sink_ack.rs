//! Stored forms of a sink's acknowledgements.

use crate::log_cursor::LogCursor;
use crate::position::Position;
use crate::sink_cursor::{DelayedDelivery, SinkAck};
use mailtrail_mail::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct SinkAckV1 {
    sink: String,
    at: u64,
    position: Position,
    dead_letters: Vec<(Position, u16, String)>,
}

impl SinkAckV1 {
    pub fn into_domain(self) -> SinkAck {
        SinkAckV2 { base: self, delayed: Vec::new(), resumed: Vec::new() }.into_domain()
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SinkAckV2 {
    base: SinkAckV1,
    /// Due time, position and index of each entry.
    delayed: Vec<(u64, Position, u16)>,
    resumed: Vec<(u64, Position, u16)>,
}

impl From<&SinkAck> for SinkAckV2 {
    fn from(handed: &SinkAck) -> Self {
        let refused = handed.dead_letters.iter();
        let dead_letters =
            refused.map(|(LogCursor(place), part, why)| (*place, *part, why.clone())).collect();
        let at = handed.at.as_millis();
        let base = SinkAckV1 { sink: handed.sink.clone(), at, position: handed.position.0, dead_letters };
        let write = |delayed: &[DelayedDelivery]| {
            delayed.iter().map(|one| (one.retry_at.as_millis(), one.cursor.0, one.index)).collect()
        };
        Self { base, delayed: write(&handed.delayed), resumed: write(&handed.resumed) }
    }
}

impl SinkAckV2 {
    pub fn into_domain(self) -> SinkAck {
        let SinkAckV1 { sink, at, position, dead_letters } = self.base;
        let refused = dead_letters.into_iter();
        let read = |delayed: Vec<(u64, Position, u16)>| {
            let read = |(due, place, index)| DelayedDelivery {
                retry_at: Timestamp::from_millis(due),
                cursor: LogCursor(place),
                index,
            };
            delayed.into_iter().map(read).collect()
        };
        SinkAck {
            sink,
            at: Timestamp::from_millis(at),
            position: LogCursor(position),
            dead_letters: refused.map(|(place, part, why)| (LogCursor(place), part, why)).collect(),
            delayed: read(self.delayed),
            resumed: read(self.resumed),
        }
    }
}
