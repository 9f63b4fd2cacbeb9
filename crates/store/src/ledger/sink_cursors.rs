use crate::journal::Position;
use crate::ledger::database::Ledger;
use crate::ledger::keys;
use crate::ledger::rows::decode_row;
use crate::log_reader::LogCursor;
use crate::sink_cursor::{DelayedDelivery, SinkAck};
use mailtrail_mail::Timestamp;

impl Ledger {
    /// How far a sink got, and when.
    pub fn sink_position(&self, sink: &str) -> sled::Result<Option<(LogCursor, Timestamp)>> {
        let row = self
            .memtable()
            .get(&keys::sink_cursor_key(sink))?
            .as_deref()
            .and_then(decode_row::<(Position, u64)>);
        Ok(row.map(|(place, at)| (LogCursor(place), Timestamp::from_millis(at))))
    }

    /// Whether that is the last that is known of its sink.
    pub fn is_latest_ack(&self, handed: &SinkAck) -> sled::Result<bool> {
        Ok(self.sink_position(&handed.sink)? == Some((handed.position, handed.at)))
    }

    /// Whether something that was delayed then still is.
    pub fn has_pending_delay(&self, handed: &SinkAck) -> sled::Result<bool> {
        for delayed in &handed.delayed {
            if self.memtable().get(&keys::delayed_delivery_key(&handed.sink, *delayed))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a sink is to be offered again at `now`, by when it is due.
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

    /// How much a sink is to be offered again.
    pub fn count_delayed(&self, sink: &str) -> sled::Result<usize> {
        self.memtable()
            .scan_prefix(&keys::delayed_delivery_prefix(sink))
            .try_fold(0, |count, row| row.map(|_| count + 1))
    }

    /// What a sink refused: the record, which of its entries, when and why.
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
