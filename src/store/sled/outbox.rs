use super::keys;
use super::projection::Projection;
use super::rows::decode;
use crate::clock::Timestamp;
use crate::store::journal::Place;
use crate::store::{Cursor, Handed};

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
