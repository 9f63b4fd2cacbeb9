//! Positions of sinks in the journal. Sinks read the journal itself, each from its own stored position; there
//! is no separate queue. Nothing is stored twice, nothing is lost that the journal still has, and the order
//! is the order of writing.

use crate::group_commit::{CommitError, CommitOptions};
use crate::journal::{Position, list_segments};
use crate::log_reader::{LogCursor, LogEntry};
use crate::record::Record;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::Timestamp;
use std::sync::PoisonError;

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

/// An entry that a sink rejected permanently.
#[derive(Clone, Debug)]
pub struct SinkDeadLetter {
    /// Time of the rejection.
    pub at: Timestamp,
    /// Reason of the rejection.
    pub reason: String,
    /// The entry, if the journal still has it.
    pub entry: Option<LogEntry>,
}

/// Log entries of one record.
#[derive(Clone, Debug)]
pub struct LoggedRecord {
    /// Position of the record.
    pub cursor: LogCursor,
    /// Entries of the record; several if an attempt had several outcomes.
    pub entries: Vec<LogEntry>,
}

impl Store {
    /// Returns the log entries of up to `limit` records from `from` on, in the order of writing, and the
    /// position to continue from.
    pub fn read_from(
        &self,
        from: LogCursor,
        limit: usize,
    ) -> Result<(Vec<LoggedRecord>, LogCursor), ReadError> {
        let mut from = from.0;
        loop {
            let applied = self.ledger()?.position()?.unwrap_or_default();
            let (records, end) = match self.logged_records(from, limit) {
                // The segment was past retention.
                Err(ReadError::Journal(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    (Vec::new(), from)
                }
                read => read?,
            };
            let next = self.next_segment_start(from)?;
            if records.is_empty() && end == from && next.is_some_and(|next| next <= applied) {
                from = next.unwrap_or(from);
                continue;
            }
            return Ok((records, LogCursor(end)));
        }
    }

    fn next_segment_start(&self, place: Position) -> Result<Option<Position>, ReadError> {
        let later = list_segments(&self.0.journal_dir)?.into_iter().find(|number| *number > place.segment);
        Ok(later.map(|segment| Position { segment, offset: 0 }))
    }

    /// Returns the end of the journal at that time, or a slightly earlier position.
    pub fn cursor_at_time(&self, time: Timestamp) -> Result<LogCursor, ReadError> {
        let before = self.log_segments()?.into_iter().rev().find(|(_, made)| *made <= time);
        let first = || Ok::<_, ReadError>(self.next_segment_start(Position::default())?.unwrap_or_default());
        Ok(LogCursor(match before {
            Some((segment, _)) => Position { segment, offset: 0 },
            None => first()?,
        }))
    }

    /// Records a sink's progress.
    pub async fn ack_sink(&self, ack: SinkAck) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: true };
        self.commit_pipeline()?.commit(Record::SinkAck(Box::new(ack)), Bytes::new(), wish).await
    }

    /// Requests that a sink read again from `cursor` as soon as it can. A restart discards the request.
    pub fn request_rewind(&self, sink: &str, cursor: LogCursor) {
        self.0.rewind_requests.lock().unwrap_or_else(PoisonError::into_inner).insert(sink.to_owned(), cursor);
    }

    /// Returns the pending rewind of a sink and clears it.
    pub fn take_rewind_request(&self, sink: &str) -> Option<LogCursor> {
        self.0.rewind_requests.lock().unwrap_or_else(PoisonError::into_inner).remove(sink)
    }

    /// Returns a sink's position and the time of its acknowledgement; `None` for a new sink.
    pub fn sink_position(&self, sink: &str) -> Result<Option<(LogCursor, Timestamp)>, ReadError> {
        Ok(self.ledger()?.sink_position(sink)?)
    }

    /// Returns the first `limit` delayed entries of a sink that are due by `now`, ordered by due time.
    pub fn due_deliveries(
        &self,
        sink: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DelayedDelivery>, ReadError> {
        Ok(self.ledger()?.due_deliveries(sink, now, limit)?)
    }

    /// Counts a sink's delayed entries, due or not.
    pub fn count_delayed(&self, sink: &str) -> Result<usize, ReadError> {
        Ok(self.ledger()?.count_delayed(sink)?)
    }

    /// Returns an entry of a record, if the journal still has it.
    pub fn log_entry(&self, cursor: LogCursor, part: u16) -> Result<Option<LogEntry>, ReadError> {
        let record = self.read_from(cursor, 1)?.0.into_iter().find(|record| record.cursor == cursor);
        Ok(record.and_then(|record| record.entries.into_iter().nth(usize::from(part))))
    }

    /// Returns the entries that a sink rejected permanently, oldest first.
    pub fn sink_dead_letters(&self, sink: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, ReadError> {
        let refused = self.ledger()?.sink_dead_letters(sink, limit)?.into_iter();
        let refused = refused.map(|(cursor, part, at, reason)| {
            Ok(SinkDeadLetter { at, reason, entry: self.log_entry(cursor, part)? })
        });
        refused.collect()
    }
}
