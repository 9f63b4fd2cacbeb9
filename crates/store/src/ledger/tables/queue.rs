//! Tables of the queue, of upstreams, and of the journal's garbage.

use crate::ledger::encoding::{concat_key, hash_parts, hash_row, parse_time, parse_tracking_id, time_bytes};
use crate::ledger::memtable::{Memtable, prefix_range};
use crate::ledger::rows::{QueueEntryRow, QueueKeyRow};
use crate::ledger::table::{Table, TableRows};
use mailtrail_mail::{Lane, Timestamp, TrackingId};
use std::ops::Bound::{Excluded, Included};

/// Queue entries of open messages, by lane, queue key and due time.
pub struct QueueEntries;

impl Table for QueueEntries {
    const PREFIX: &'static [u8] = b"q";
    type Key<'k> = (Lane, &'k QueueKeyRow, Timestamp, TrackingId);
    type ParsedKey<'k> = (Timestamp, TrackingId);
    type Row<'r> = QueueKeyRow;

    fn key((lane, queue_key, due, id): (Lane, &QueueKeyRow, Timestamp, TrackingId)) -> Vec<u8> {
        concat_key(
            Self::PREFIX,
            &[&[lane_byte(lane)], &hash_row(queue_key), &time_bytes(due), &id.to_bytes()],
        )
    }

    fn parse_key(key: &[u8]) -> Option<(Timestamp, TrackingId)> {
        Some((parse_time(key, QUEUE_PREFIX_LEN)?, parse_tracking_id(key)?))
    }
}

impl QueueEntries {
    /// Returns the key of a message's queue entry.
    pub fn entry_key(lane: Lane, entry: &QueueEntryRow, id: TrackingId) -> <Self as Table>::Key<'_> {
        (lane, &entry.queue_key, Timestamp::from_millis(entry.next_attempt), id)
    }

    /// Returns the entries of one queue, the earliest due first.
    pub fn of_queue<'m>(rows: &'m Memtable, lane: Lane, queue_key: &QueueKeyRow) -> TableRows<'m, Self> {
        Self::scan_prefix(rows, &concat_key(Self::PREFIX, &[&[lane_byte(lane)], &hash_row(queue_key)]))
    }

    /// Returns the queues that hold messages, those of the first lane first. Reads one row of each.
    pub fn queues(rows: &Memtable) -> sled::Result<Vec<(Lane, QueueKeyRow)>> {
        let (mut from, end) = prefix_range(Self::PREFIX);
        let mut queues = Vec::new();
        while let Some(row) = rows.range((from, end.clone())).next() {
            let (key, row) = row?;
            let Some(queue) = key.get(..QUEUE_PREFIX_LEN) else { break };
            let lane = if queue[1] == 0 { Lane::Transactional } else { Lane::Bulk };
            queues.extend(Self::decode(&row).map(|queue_key| (lane, queue_key)));
            // The next queue begins where this one ends.
            from = match prefix_range(queue).1 {
                Excluded(end) => Included(end),
                end => end,
            };
        }
        Ok(queues)
    }
}

fn lane_byte(lane: Lane) -> u8 {
    u8::from(lane == Lane::Bulk)
}

/// Reasons of operators for keeping breakers open, by upstream.
pub struct BreakerOverrides;

impl Table for BreakerOverrides {
    const PREFIX: &'static [u8] = b"b";
    type Key<'k> = &'k str;
    type ParsedKey<'k> = ();
    type Row<'r> = String;

    fn key(upstream: &str) -> Vec<u8> {
        concat_key(Self::PREFIX, &[upstream.as_bytes()])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }

    fn encode(reason: &String) -> Vec<u8> {
        reason.clone().into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<String> {
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Numbers of recipients that an upstream accepted, by upstream and UTC day.
pub struct RelayedCounts;

impl Table for RelayedCounts {
    const PREFIX: &'static [u8] = b"c";
    type Key<'k> = (&'k str, u16);
    type ParsedKey<'k> = ();
    type Row<'r> = u64;

    fn key((upstream, day): (&str, u16)) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&hash_parts(&[upstream])[..8], &day.to_be_bytes()])
    }

    fn parse_key(_: &[u8]) -> Option<()> {
        Some(())
    }
}

/// Bytes of finished messages, by segment of the journal.
pub struct SegmentGarbage;

impl Table for SegmentGarbage {
    const PREFIX: &'static [u8] = b"g";
    type Key<'k> = u32;
    type ParsedKey<'k> = u32;
    type Row<'r> = u64;

    fn key(segment: u32) -> Vec<u8> {
        concat_key(Self::PREFIX, &[&segment.to_be_bytes()])
    }

    fn parse_key(key: &[u8]) -> Option<u32> {
        key.get(1..5)?.try_into().ok().map(u32::from_be_bytes)
    }
}

/// Length of a key up to the due time: prefix, lane and hash of the queue key.
const QUEUE_PREFIX_LEN: usize = 10;
