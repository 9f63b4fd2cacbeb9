//! What sinks are handed: the journal itself, read from where each of them stands. Nothing is kept twice, nothing is lost
//! that the journal still has, and the order is the order in which it was written.

use crate::group_commit::{CommitError, CommitOptions};
use crate::journal::{Position, list_segments};
use crate::log_reader::{LogCursor, LogEntry};
use crate::record::Record;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::Timestamp;
use std::sync::PoisonError;

/// How far a sink got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkAck {
    /// Which sink.
    pub sink: String,
    /// When.
    pub at: Timestamp,
    /// It has, or refused, everything in front of this.
    pub position: LogCursor,
    /// What it refused for good since it was noted last: the record, which of its entries, and why.
    pub dead_letters: Vec<(LogCursor, u16, String)>,
    /// What it is to be offered again since then, alone.
    pub delayed: Vec<DelayedDelivery>,
    /// Delays that are over since then.
    pub resumed: Vec<DelayedDelivery>,
}

/// Something that a sink takes later than what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedDelivery {
    /// When it is offered again.
    pub retry_at: Timestamp,
    /// The record.
    pub cursor: LogCursor,
    /// Which of its entries.
    pub index: u16,
}

/// Something that a sink refused for good.
#[derive(Clone, Debug)]
pub struct SinkDeadLetter {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// What it was, as far as the journal still has it.
    pub entry: Option<LogEntry>,
}

/// What one record says.
#[derive(Clone, Debug)]
pub struct LoggedRecord {
    /// The record.
    pub cursor: LogCursor,
    /// What it says; several where an attempt came to several ends.
    pub entries: Vec<LogEntry>,
}

impl Store {
    /// What at most `limit` records from `from` on say, in the order in which they were written, and where to go on.
    pub fn read_from(
        &self,
        from: LogCursor,
        limit: usize,
    ) -> Result<(Vec<LoggedRecord>, LogCursor), ReadError> {
        let mut from = from.0;
        loop {
            let applied = self.ledger()?.position()?.unwrap_or_default();
            let (parcels, end) = match self.logged_records(from, limit) {
                // It was past retention.
                Err(ReadError::Journal(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    (Vec::new(), from)
                }
                read => read?,
            };
            let next = self.next_segment_start(from)?;
            if parcels.is_empty() && end == from && next.is_some_and(|next| next <= applied) {
                from = next.unwrap_or(from);
                continue;
            }
            return Ok((parcels, LogCursor(end)));
        }
    }

    fn next_segment_start(&self, place: Position) -> Result<Option<Position>, ReadError> {
        let later = list_segments(&self.0.journal_dir)?.into_iter().find(|number| *number > place.segment);
        Ok(later.map(|segment| Position { segment, offset: 0 }))
    }

    /// Where the journal was at that time, or a little before.
    pub fn cursor_at(&self, time: Timestamp) -> Result<LogCursor, ReadError> {
        let before = self.log_segments()?.into_iter().rev().find(|(_, made)| *made <= time);
        let first = || Ok::<_, ReadError>(self.next_segment_start(Position::default())?.unwrap_or_default());
        Ok(LogCursor(match before {
            Some((segment, _)) => Position { segment, offset: 0 },
            None => first()?,
        }))
    }

    /// Notes how far a sink got.
    pub async fn ack_sink(&self, handed: SinkAck) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: true };
        self.commit_pipeline()?.commit(Record::SinkAck(Box::new(handed)), Bytes::new(), wish).await
    }

    /// Has a sink begin again there as soon as it can; a wish that a restart forgets.
    pub fn request_rewind(&self, sink: &str, cursor: LogCursor) {
        self.0.rewind_requests.lock().unwrap_or_else(PoisonError::into_inner).insert(sink.to_owned(), cursor);
    }

    /// Where a sink is to begin again, if somebody wished that since it was asked last.
    pub fn take_rewind(&self, sink: &str) -> Option<LogCursor> {
        self.0.rewind_requests.lock().unwrap_or_else(PoisonError::into_inner).remove(sink)
    }

    /// How far a sink got, and when that was noted; `None` for one that is new.
    pub fn sink_position(&self, sink: &str) -> Result<Option<(LogCursor, Timestamp)>, ReadError> {
        Ok(self.ledger()?.sink_position(sink)?)
    }

    /// What a sink is to be offered again at `now`, the first `limit` by when they are due.
    pub fn due_deliveries(
        &self,
        sink: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DelayedDelivery>, ReadError> {
        Ok(self.ledger()?.due_deliveries(sink, now, limit)?)
    }

    /// How much a sink is to be offered again, now or later.
    pub fn count_delayed(&self, sink: &str) -> Result<usize, ReadError> {
        Ok(self.ledger()?.count_delayed(sink)?)
    }

    /// The entry of a record, as far as the journal still has it.
    pub fn log_entry(&self, cursor: LogCursor, part: u16) -> Result<Option<LogEntry>, ReadError> {
        let parcel = self.read_from(cursor, 1)?.0.into_iter().find(|parcel| parcel.cursor == cursor);
        Ok(parcel.and_then(|parcel| parcel.entries.into_iter().nth(usize::from(part))))
    }

    /// What a sink refused for good, the oldest first.
    pub fn sink_dead_letters(&self, sink: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, ReadError> {
        let refused = self.ledger()?.sink_dead_letters(sink, limit)?.into_iter();
        let refused = refused.map(|(cursor, part, at, reason)| {
            Ok(SinkDeadLetter { at, reason, entry: self.log_entry(cursor, part)? })
        });
        refused.collect()
    }
}
