//! What sinks are handed: the journal itself, read from where each of them stands. Nothing is kept twice, nothing is lost
//! that the journal still has, and the order is the order in which it was written.

use crate::group_commit::{CommitError, Wish};
use crate::journal::{Place, segments};
use crate::log_reader::{Cursor, Entry};
use crate::record::Record;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::Timestamp;
use std::sync::PoisonError;

/// How far a sink got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Which sink.
    pub sink: String,
    /// When.
    pub at: Timestamp,
    /// It has, or refused, everything in front of this.
    pub until: Cursor,
    /// What it refused for good since it was noted last: the record, which of its entries, and why.
    pub refused: Vec<(Cursor, u16, String)>,
    /// What it is to be offered again since then, alone.
    pub delayed: Vec<Delayed>,
    /// Delays that are over since then.
    pub resumed: Vec<Delayed>,
}

/// Something that a sink takes later than what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// When it is offered again.
    pub due: Timestamp,
    /// The record.
    pub cursor: Cursor,
    /// Which of its entries.
    pub part: u16,
}

/// Something that a sink refused for good.
#[derive(Clone, Debug)]
pub struct Refused {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
    /// What it was, as far as the journal still has it.
    pub entry: Option<Entry>,
}

/// What one record says.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The record.
    pub cursor: Cursor,
    /// What it says; several where an attempt came to several ends.
    pub entries: Vec<Entry>,
}

impl Store {
    /// What at most `limit` records from `from` on say, in the order in which they were written, and where to go on.
    pub fn outbox(&self, from: Cursor, limit: usize) -> Result<(Vec<Parcel>, Cursor), ReadError> {
        let mut from = from.0;
        loop {
            let applied = self.projection()?.position()?.unwrap_or_default();
            let (parcels, end) = match self.parcels(from, limit) {
                // It was past retention.
                Err(ReadError::Journal(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    (Vec::new(), from)
                }
                read => read?,
            };
            let next = self.segment_after(from)?;
            if parcels.is_empty() && end == from && next.is_some_and(|next| next <= applied) {
                from = next.unwrap_or(from);
                continue;
            }
            return Ok((parcels, Cursor(end)));
        }
    }

    fn segment_after(&self, place: Place) -> Result<Option<Place>, ReadError> {
        let later = segments(&self.0.journal)?.into_iter().find(|number| *number > place.segment);
        Ok(later.map(|segment| Place { segment, offset: 0 }))
    }

    /// Where the journal was at that time, or a little before.
    pub fn cursor_at(&self, time: Timestamp) -> Result<Cursor, ReadError> {
        let before = self.log_segments()?.into_iter().rev().find(|(_, made)| *made <= time);
        let first = || Ok::<_, ReadError>(self.segment_after(Place::default())?.unwrap_or_default());
        Ok(Cursor(match before {
            Some((segment, _)) => Place { segment, offset: 0 },
            None => first()?,
        }))
    }

    /// Notes how far a sink got.
    pub async fn hand_over(&self, handed: Handed) -> Result<(), CommitError> {
        let wish = Wish { urgent: false, applied: true };
        self.committer()?.commit(Record::Handed(Box::new(handed)), Bytes::new(), wish).await
    }

    /// Has a sink begin again there as soon as it can; a wish that a restart forgets.
    pub fn rewind(&self, sink: &str, cursor: Cursor) {
        self.0.rewinds.lock().unwrap_or_else(PoisonError::into_inner).insert(sink.to_owned(), cursor);
    }

    /// Where a sink is to begin again, if somebody wished that since it was asked last.
    pub fn take_rewind(&self, sink: &str) -> Option<Cursor> {
        self.0.rewinds.lock().unwrap_or_else(PoisonError::into_inner).remove(sink)
    }

    /// How far a sink got, and when that was noted; `None` for one that is new.
    pub fn handed(&self, sink: &str) -> Result<Option<(Cursor, Timestamp)>, ReadError> {
        Ok(self.projection()?.handed(sink)?)
    }

    /// What a sink is to be offered again at `now`, the first `limit` by when they are due.
    pub fn delayed(&self, sink: &str, now: Timestamp, limit: usize) -> Result<Vec<Delayed>, ReadError> {
        Ok(self.projection()?.delayed(sink, now, limit)?)
    }

    /// How much a sink is to be offered again, now or later.
    pub fn count_delayed(&self, sink: &str) -> Result<usize, ReadError> {
        Ok(self.projection()?.count_delayed(sink)?)
    }

    /// The entry of a record, as far as the journal still has it.
    pub fn entry(&self, cursor: Cursor, part: u16) -> Result<Option<Entry>, ReadError> {
        let parcel = self.outbox(cursor, 1)?.0.into_iter().find(|parcel| parcel.cursor == cursor);
        Ok(parcel.and_then(|parcel| parcel.entries.into_iter().nth(usize::from(part))))
    }

    /// What a sink refused for good, the oldest first.
    pub fn refused(&self, sink: &str, limit: usize) -> Result<Vec<Refused>, ReadError> {
        let refused = self.projection()?.refused(sink, limit)?.into_iter();
        let refused =
            refused.map(|(cursor, part, at, why)| Ok(Refused { at, why, entry: self.entry(cursor, part)? }));
        refused.collect()
    }
}
