//! Applies acknowledgements of sinks.

use crate::ledger::table::Table;
use crate::ledger::tables::{DelayedDeliveries, SinkCursors, SinkDeadLetters};
use crate::ledger::write_batch::WriteBatch;
use crate::sink_cursor::SinkAck;
use std::borrow::Cow;

/// Stores a sink's position, its rejections and its delayed deliveries.
pub fn apply_sink_ack(rows: &mut WriteBatch<'_>, ack: &SinkAck) {
    SinkCursors::put(rows, &ack.sink, &(ack.position.0, ack.at.as_millis()));
    for (cursor, index, reason) in &ack.dead_letters {
        let row = (ack.at.as_millis(), Cow::Borrowed(&**reason));
        SinkDeadLetters::put(rows, (&ack.sink, *cursor, *index), &row);
    }
    for resumed in &ack.resumed {
        DelayedDeliveries::delete(rows, (&ack.sink, *resumed));
    }
    for delayed in &ack.delayed {
        DelayedDeliveries::put(rows, (&ack.sink, *delayed), &());
    }
}
