//! Lookups of sink positions, delayed deliveries and permanent rejections.

use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::rows::decode_row;
use crate::log_cursor::LogCursor;
use crate::position::Position;
use crate::sink_cursor::{DelayedDelivery, SinkAck};
use mailtrail_mail::Timestamp;

impl Ledger {
    /// Returns a sink's position and the time of its acknowledgement.
    pub fn sink_position(&self, sink: &str) -> sled::Result<Option<(LogCursor, Timestamp)>> {
        let row = self
            .memtable()
            .get(&keys::sink_cursor_key(sink))?
            .as_deref()
            .and_then(decode_row::<(Position, u64)>);
        Ok(row.map(|(place, at)| (LogCursor(place), Timestamp::from_millis(at))))
    }

    /// Returns whether this is the last acknowledgement of its sink.
    pub fn is_latest_ack(&self, ack: &SinkAck) -> sled::Result<bool> {
        Ok(self.sink_position(&ack.sink)? == Some((ack.position, ack.at)))
    }

    /// Returns whether any delivery that was delayed by this acknowledgement is still pending.
    pub fn has_pending_delay(&self, ack: &SinkAck) -> sled::Result<bool> {
        for delayed in &ack.delayed {
            if self.memtable().get(&keys::delayed_delivery_key(&ack.sink, *delayed))?.is_some() {
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
        for row in self.memtable().scan_prefix(&keys::delayed_delivery_prefix(sink)).take(limit) {
            match keys::parse_delayed_delivery_key(&row?.0) {
                Some(delayed) if delayed.retry_at <= now => found.push(delayed),
                _ => break,
            }
        }
        Ok(found)
    }

    /// Counts a sink's delayed deliveries.
    pub fn count_delayed(&self, sink: &str) -> sled::Result<usize> {
        self.memtable()
            .scan_prefix(&keys::delayed_delivery_prefix(sink))
            .try_fold(0, |count, row| row.map(|_| count + 1))
    }

    /// Returns a sink's rejected entries: record, index of the entry, time and reason.
    pub fn sink_dead_letters(
        &self,
        sink: &str,
        limit: usize,
    ) -> sled::Result<Vec<(LogCursor, u16, Timestamp, String)>> {
        let mut refused = Vec::new();
        for row in self.memtable().scan_prefix(&keys::sink_dead_letter_prefix(sink)).take(limit) {
            let (key, value) = row?;
            if let (Some((cursor, part)), Some((at, why))) =
                (keys::parse_sink_dead_letter_key(&key), decode_row::<(u64, String)>(&value))
            {
                refused.push((cursor, part, Timestamp::from_millis(at), why));
            }
        }
        Ok(refused)
    }
}
