use crate::journal::Place;
use crate::ledger::database::Projection;
use crate::ledger::keys;
use crate::ledger::rows::decode;
use crate::log_reader::Cursor;
use crate::sink_cursor::{Delayed, Handed};
use mailtrail_mail::Timestamp;

impl Projection {
    /// How far a sink got, and when.
    pub fn handed(&self, sink: &str) -> sled::Result<Option<(Cursor, Timestamp)>> {
        let row = self.rows().get(&keys::sink(sink))?.as_deref().and_then(decode::<(Place, u64)>);
        Ok(row.map(|(place, at)| (Cursor(place), Timestamp::from_millis(at))))
    }

    /// Whether that is the last that is known of its sink.
    pub fn is_last(&self, handed: &Handed) -> sled::Result<bool> {
        Ok(self.handed(&handed.sink)? == Some((handed.until, handed.at)))
    }

    /// Whether something that was delayed then still is.
    pub fn is_delayed(&self, handed: &Handed) -> sled::Result<bool> {
        for delayed in &handed.delayed {
            if self.rows().get(&keys::delayed(&handed.sink, *delayed))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a sink is to be offered again at `now`, by when it is due.
    pub fn delayed(&self, sink: &str, now: Timestamp, limit: usize) -> sled::Result<Vec<Delayed>> {
        let mut found = Vec::new();
        for row in self.rows().prefixed(&keys::delayed_by(sink)).take(limit) {
            match keys::read_delayed(&row?.0) {
                Some(delayed) if delayed.due <= now => found.push(delayed),
                _ => break,
            }
        }
        Ok(found)
    }

    /// How much a sink is to be offered again.
    pub fn count_delayed(&self, sink: &str) -> sled::Result<usize> {
        self.rows().prefixed(&keys::delayed_by(sink)).try_fold(0, |count, row| row.map(|_| count + 1))
    }

    /// What a sink refused: the record, which of its entries, when and why.
    pub fn refused(&self, sink: &str, limit: usize) -> sled::Result<Vec<(Cursor, u16, Timestamp, String)>> {
        let mut refused = Vec::new();
        for row in self.rows().prefixed(&keys::refused_by(sink)).take(limit) {
            let (key, value) = row?;
            if let (Some((cursor, part)), Some((at, why))) =
                (keys::read_refused(&key), decode::<(u64, String)>(&value))
            {
                refused.push((cursor, part, Timestamp::from_millis(at), why));
            }
        }
        Ok(refused)
    }
}
