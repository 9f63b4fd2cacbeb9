//! Lookups of sink positions, delayed deliveries and permanent rejections.

use crate::ledger::database::Ledger;
use crate::ledger::table::Table;
use crate::ledger::tables::{DelayedDeliveries, SinkCursors, SinkDeadLetters};
use crate::log_cursor::LogCursor;
use crate::sink_cursor::{DelayedDelivery, SinkAck};
use mailtrail_mail::Timestamp;

impl Ledger {
    /// Returns a sink's position and the time of its acknowledgement.
    pub fn sink_position(&self, sink: &str) -> sled::Result<Option<(LogCursor, Timestamp)>> {
        let row = SinkCursors::get(self.memtable(), sink)?;
        Ok(row.map(|(position, at)| (LogCursor(position), Timestamp::from_millis(at))))
    }

    /// Returns whether this is the last acknowledgement of its sink.
    pub fn is_latest_ack(&self, ack: &SinkAck) -> sled::Result<bool> {
        Ok(self.sink_position(&ack.sink)? == Some((ack.position, ack.at)))
    }

    /// Returns whether any delivery that was delayed by this acknowledgement is still pending.
    pub fn has_pending_delay(&self, ack: &SinkAck) -> sled::Result<bool> {
        for delayed in &ack.delayed {
            if DelayedDeliveries::contains(self.memtable(), (&ack.sink, *delayed))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns a sink's delayed deliveries that are due at `now`, ordered by due time.
    pub fn due_deliveries(
        &self,
        sink: &str,
        now: Timestamp,
        limit: usize,
    ) -> sled::Result<Vec<DelayedDelivery>> {
        let mut found = Vec::new();
        for row in DelayedDeliveries::of_sink(self.memtable(), sink).take(limit) {
            match row?.key() {
                Some(delayed) if delayed.retry_at <= now => found.push(delayed),
                _ => break,
            }
        }
        Ok(found)
    }

    /// Counts a sink's delayed deliveries.
    pub fn count_delayed(&self, sink: &str) -> sled::Result<usize> {
        DelayedDeliveries::of_sink(self.memtable(), sink).try_fold(0, |count, row| row.map(|_| count + 1))
    }

    /// Returns a sink's rejected entries: record, index of the entry, time and reason.
    pub fn sink_dead_letters(
        &self,
        sink: &str,
        limit: usize,
    ) -> sled::Result<Vec<(LogCursor, u16, Timestamp, String)>> {
        let mut refused = Vec::new();
        for found in SinkDeadLetters::of_sink(self.memtable(), sink).take(limit) {
            let found = found?;
            if let Some(((cursor, index), (at, reason))) = found.key().zip(found.row()) {
                refused.push((cursor, index, Timestamp::from_millis(at), reason.into_owned()));
            }
        }
        Ok(refused)
    }
}
