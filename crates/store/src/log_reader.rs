//! Reads the journal as a log: all trail events in the order in which they were written.

use crate::inner::StoreInner;
use crate::journal::{Frame, Segment, list_segments};
use crate::log_cursor::LogCursor;
use crate::log_entry::{LoggedRecord, append_entries};
use crate::position::Position;
use crate::read_error::ReadError;
use crate::record::Record;
use mailtrail_mail::Timestamp;
use std::io;

impl StoreInner {
    /// Returns the segments of the log with their start times, oldest first.
    pub(crate) fn log_segments(&self) -> Result<Vec<(u32, Timestamp)>, ReadError> {
        let numbers = list_segments(&self.journal_dir)?;
        let made = numbers.into_iter().filter_map(|number| {
            let segment = Segment::open(&self.journal_dir, number, None).ok()?;
            Some((number, segment.created_at()))
        });
        Ok(made.collect())
    }

    /// Returns the log entries of the first `limit` records of a segment after `from`, and the position after
    /// them.
    pub(crate) fn logged_records(
        &self,
        from: Position,
        limit: usize,
    ) -> Result<(Vec<LoggedRecord>, Position), ReadError> {
        let (frames, end) = self.read_frames(from, limit)?;
        let (ledger, mut records) = (self.ledger()?, Vec::new());
        for frame in frames {
            if let Ok(record) = Record::decode(frame.kind, frame.version, &frame.payload) {
                let mut entries = Vec::new();
                append_entries(&ledger, record, &mut entries)?;
                records.push(LoggedRecord { cursor: LogCursor(frame.position), entries });
            }
        }
        Ok((records, end))
    }

    /// Returns the first `limit` records of a segment after `from` that lookups can see, and the position
    /// after them.
    pub(crate) fn read_frames(
        &self,
        from: Position,
        limit: usize,
    ) -> Result<(Vec<Frame>, Position), ReadError> {
        let applied = self.ledger()?.position()?.unwrap_or_default();
        let until = if applied.segment > from.segment { None } else { Some(applied.offset) };
        let (mut frames, mut next) = (Vec::new(), None);
        if from.segment > applied.segment || from.segment == 0 {
            return Ok((frames, from));
        }
        let segment = Segment::open(&self.journal_dir, from.segment, until)?;
        let keep = |frame: Frame| {
            if frames.len() == limit {
                next = Some(frame.position);
                return Err(io::Error::other("enough"));
            }
            frames.push(frame);
            Ok(())
        };
        let scanned = segment.scan_frames(from.offset, false, keep, |_| {});
        let end = match next {
            Some(next) => next,
            None => Position { segment: from.segment, offset: scanned?.max(from.offset) },
        };
        Ok((frames, end))
    }

    /// Returns the start of the first segment after `place`.
    pub(crate) fn next_segment_start(&self, place: Position) -> Result<Option<Position>, ReadError> {
        let later = list_segments(&self.journal_dir)?.into_iter().find(|number| *number > place.segment);
        Ok(later.map(|segment| Position { segment, offset: 0 }))
    }
}
