//! Tables of the sinks.

use crate::ledger::encoding::{
    concat_key, hash_parts, parse_log_position, parse_time, position_bytes, time_bytes,
};
use crate::ledger::memtable::Memtable;
use crate::ledger::table::{Table, TableRows};
use crate::log_cursor::LogCursor;
use crate::position::Position;
use crate::sink_cursor::DelayedDelivery;
use std::borrow::Cow;

/// Position up to which a sink has everything, and the time of its acknowledgement, by name.
pub struct SinkCursors;

impl Table for SinkCursors {
    const PREFIX: &'static [u8] = b"z";
    type Key<'k> = &'k str;
    type ParsedKey<'k> = ();
    type Row<'r> = (Position, u64);

    fn key(sink: &str) -> Vec<u8> {
        concat_key(Self::PREFIX, &[sink.as_bytes()])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}

/// Time and reason of permanent rejections, by sink, record and index of the entry.
pub struct SinkDeadLetters;

impl Table for SinkDeadLetters {
    const PREFIX: &'static [u8] = b"a";
    type Key<'k> = (&'k str, LogCursor, u16);
    type ParsedKey<'k> = (LogCursor, u16);
    type Row<'r> = (u64, Cow<'r, str>);

    fn key((sink, cursor, index): (&str, LogCursor, u16)) -> Vec<u8> {
        let sink = &hash_parts(&[sink])[..8];
        concat_key(Self::PREFIX, &[sink, &position_bytes(cursor.0), &index.to_be_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<(LogCursor, u16)> {
        parse_log_position(key.get(9..)?)
    }
}

impl SinkDeadLetters {
    /// Returns the entries that a sink rejected, oldest first.
    pub fn of_sink<'m>(rows: &'m Memtable, sink: &str) -> TableRows<'m, Self> {
        Self::scan_prefix(rows, &concat_key(Self::PREFIX, &[&hash_parts(&[sink])[..8]]))
    }
}

/// Delayed deliveries, by sink and due time.
pub struct DelayedDeliveries;

impl Table for DelayedDeliveries {
    const PREFIX: &'static [u8] = b"l";
    type Key<'k> = (&'k str, DelayedDelivery);
    type ParsedKey<'k> = DelayedDelivery;
    type Row<'r> = ();

    fn key((sink, delayed): (&str, DelayedDelivery)) -> Vec<u8> {
        let sink = &hash_parts(&[sink])[..8];
        let (due, position) = (time_bytes(delayed.retry_at), position_bytes(delayed.cursor.0));
        concat_key(Self::PREFIX, &[sink, &due, &position, &delayed.index.to_be_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<DelayedDelivery> {
        let (cursor, index) = parse_log_position(key.get(17..)?)?;
        Some(DelayedDelivery { retry_at: parse_time(key, 9)?, cursor, index })
    }
}

impl DelayedDeliveries {
    /// Returns the delayed deliveries of a sink, the earliest due first.
    pub fn of_sink<'m>(rows: &'m Memtable, sink: &str) -> TableRows<'m, Self> {
        Self::scan_prefix(rows, &concat_key(Self::PREFIX, &[&hash_parts(&[sink])[..8]]))
    }
}
