//! The log: entries in the order of writing, positions of sinks, and audit records.

use crate::commit_command::{CommitError, CommitOptions};
use crate::log_cursor::LogCursor;
use crate::log_entry::{LogEntry, LoggedRecord, SinkDeadLetter};
use crate::position::Position;
use crate::read_error::ReadError;
use crate::record::Record;
use crate::sink_cursor::{DelayedDelivery, SinkAck};
use crate::store::Store;
use bytes::Bytes;
use mailtrail_mail::Timestamp;
use mailtrail_trail::OperatorAction;
use std::io::ErrorKind;

impl Store {
    /// Returns the present end of the log.
    pub fn log_end(&self) -> Result<LogCursor, ReadError> {
        Ok(LogCursor(self.0.ledger()?.position()?.unwrap_or_default()))
    }

    /// Returns the segments of the log with their start times, oldest first.
    pub fn log_segments(&self) -> Result<Vec<(u32, Timestamp)>, ReadError> {
        self.0.log_segments()
    }

    /// Returns all entries of one segment that lookups can see.
    pub fn log_in_segment(&self, segment: u32) -> Result<Vec<LogEntry>, ReadError> {
        let from = Position { segment, offset: 0 };
        Ok(self.read_entries(from)?.0)
    }

    /// Returns the entries after `cursor`, and their end. Advances by at most one segment.
    pub fn log_after(&self, cursor: LogCursor) -> Result<(Vec<LogEntry>, LogCursor), ReadError> {
        let (entries, end) = self.read_entries(cursor.0)?;
        let next = Position { segment: end.segment + 1, offset: 0 };
        let done = end == cursor.0 && self.0.ledger()?.position()?.is_some_and(|position| position >= next);
        Ok((entries, LogCursor(if done { next } else { end })))
    }

    fn read_entries(&self, from: Position) -> Result<(Vec<LogEntry>, Position), ReadError> {
        let (records, end) = self.0.logged_records(from, usize::MAX)?;
        Ok((records.into_iter().flat_map(|record| record.entries).collect(), end))
    }

    /// Returns the log entries of up to `limit` records from `from` on, in the order of writing, and the
    /// position to continue from.
    pub fn read_from(
        &self,
        from: LogCursor,
        limit: usize,
    ) -> Result<(Vec<LoggedRecord>, LogCursor), ReadError> {
        let mut from = from.0;
        loop {
            let applied = self.0.ledger()?.position()?.unwrap_or_default();
            let (records, end) = match self.0.logged_records(from, limit) {
                // The segment was past retention.
                Err(ReadError::Journal(error)) if error.kind() == ErrorKind::NotFound => (Vec::new(), from),
                read => read?,
            };
            let next = self.0.next_segment_start(from)?;
            if records.is_empty() && end == from && next.is_some_and(|next| next <= applied) {
                from = next.unwrap_or(from);
                continue;
            }
            return Ok((records, LogCursor(end)));
        }
    }

    /// Returns the end of the journal at that time, or a slightly earlier position.
    pub fn cursor_at_time(&self, time: Timestamp) -> Result<LogCursor, ReadError> {
        let before = self.0.log_segments()?.into_iter().rev().find(|(_, made)| *made <= time);
        let first =
            || Ok::<_, ReadError>(self.0.next_segment_start(Position::default())?.unwrap_or_default());
        Ok(LogCursor(match before {
            Some((segment, _)) => Position { segment, offset: 0 },
            None => first()?,
        }))
    }

    /// Returns an entry of a record, if the journal still has it.
    pub fn log_entry(&self, cursor: LogCursor, part: u16) -> Result<Option<LogEntry>, ReadError> {
        let record = self.read_from(cursor, 1)?.0.into_iter().find(|record| record.cursor == cursor);
        Ok(record.and_then(|record| record.entries.into_iter().nth(usize::from(part))))
    }

    /// Records a sink's progress.
    pub async fn ack_sink(&self, ack: SinkAck) -> Result<(), CommitError> {
        self.0.commit(Record::SinkAck(Box::new(ack)), Bytes::new(), CommitOptions::RELAXED_APPLIED).await
    }

    /// Returns a sink's position and the time of its acknowledgement; `None` for a new sink.
    pub fn sink_position(&self, sink: &str) -> Result<Option<(LogCursor, Timestamp)>, ReadError> {
        Ok(self.0.ledger()?.sink_position(sink)?)
    }

    /// Requests that a sink read again from `cursor` as soon as it can. A restart discards the request.
    pub fn request_rewind(&self, sink: &str, cursor: LogCursor) {
        self.0.lock_rewind_requests().insert(sink.to_owned(), cursor);
    }

    /// Returns the pending rewind of a sink and clears it.
    pub fn take_rewind_request(&self, sink: &str) -> Option<LogCursor> {
        self.0.lock_rewind_requests().remove(sink)
    }

    /// Returns the first `limit` delayed entries of a sink that are due by `now`, ordered by due time.
    pub fn due_deliveries(
        &self,
        sink: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DelayedDelivery>, ReadError> {
        Ok(self.0.ledger()?.due_deliveries(sink, now, limit)?)
    }

    /// Counts a sink's delayed entries, due or not.
    pub fn count_delayed(&self, sink: &str) -> Result<usize, ReadError> {
        Ok(self.0.ledger()?.count_delayed(sink)?)
    }

    /// Returns the entries that a sink rejected permanently, oldest first.
    pub fn sink_dead_letters(&self, sink: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, ReadError> {
        let refused = self.0.ledger()?.sink_dead_letters(sink, limit)?.into_iter();
        let refused = refused.map(|(cursor, part, at, reason)| {
            Ok(SinkDeadLetter { at, reason, entry: self.log_entry(cursor, part)? })
        });
        refused.collect()
    }

    /// Records an operator action; lookups see it on return.
    pub async fn record_operator_action(&self, action: OperatorAction) -> Result<(), CommitError> {
        self.0
            .commit(Record::OperatorAction(Box::new(action)), Bytes::new(), CommitOptions::URGENT_APPLIED)
            .await
    }
}
