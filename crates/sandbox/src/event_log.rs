use mailtrail_mail::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The events that happened, in their order, each with when it appears. It forgets the oldest beyond [`EVENTS`] and
/// [`BYTES`].
#[derive(Debug, Default)]
pub(crate) struct EventLog(Mutex<LogEntries>);

#[derive(Debug, Default)]
struct LogEntries {
    events: BTreeMap<u64, LogEntry>,
    bytes: usize,
}

#[derive(Debug)]
struct LogEntry {
    visible_at: Timestamp,
    /// As JSON, which takes a fraction of the memory that the values do.
    json: Box<str>,
}

/// A part of the log, by the events' microseconds.
pub(crate) type TimeRange = (Bound<u64>, Bound<u64>);

impl EventLog {
    /// Inserts an event at a unique microsecond.
    pub(crate) fn insert(&self, at: u64, visible_at: Timestamp, data: &Map<String, Value>) {
        let json = Value::Object(data.clone()).to_string().into_boxed_str();
        let mut log = self.lock();
        log.bytes += json.len();
        log.events.insert(at, LogEntry { visible_at, json });
        while log.events.len() > MAX_EVENTS || log.bytes > MAX_BYTES {
            let Some((_, oldest)) = log.events.pop_first() else { break };
            log.bytes -= oldest.json.len();
        }
    }

    /// Events of a range that have appeared and are `wanted`, at most `limit`: the first ones, or the last ones with
    /// the last first.
    pub(crate) fn read_page(
        &self,
        range: TimeRange,
        back: bool,
        limit: usize,
        now: Timestamp,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<(u64, Value)> {
        let read = |(at, entry): (&u64, &LogEntry)| {
            let value = serde_json::from_str(&entry.json).ok()?;
            (entry.visible_at <= now && wanted(&value)).then_some((*at, value))
        };
        if is_empty_range(range) {
            return Vec::new();
        }
        let log = self.lock();
        let events = log.events.range(range);
        if back {
            events.rev().filter_map(read).take(limit).collect()
        } else {
            events.filter_map(read).take(limit).collect()
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogEntries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the range is empty; `BTreeMap` panics on some of these.
fn is_empty_range(range: TimeRange) -> bool {
    use Bound::{Excluded, Included};
    match range {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

/// Events kept.
const MAX_EVENTS: usize = 100_000;
/// Bytes of events kept.
const MAX_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::ops::Bound::{Excluded, Included, Unbounded};

    #[test]
    fn reads_visible_events_in_both_directions() {
        let log = EventLog::default();
        for (at, appears) in [(1, 1), (2, 9), (3, 3), (4, 4)] {
            let data = Map::from_iter([("n".to_owned(), json!(at))]);
            log.insert(at, Timestamp::from_secs(appears), &data);
        }
        let page = |range, back, limit, now| -> Vec<u64> {
            let page = log.read_page(range, back, limit, Timestamp::from_secs(now), |event| event["n"] != 3);
            page.into_iter().map(|(at, _)| at).collect()
        };
        assert_eq!(page((Unbounded, Unbounded), false, 9, 5), [1, 4]);
        assert_eq!(page((Unbounded, Unbounded), false, 2, 9), [1, 2]);
        assert_eq!(page((Excluded(1), Included(4)), true, 9, 9), [4, 2]);
        assert_eq!(page((Excluded(4), Included(4)), false, 9, 9), [0; 0]);
        assert_eq!(page((Included(5), Included(4)), false, 9, 9), [0; 0]);
    }
}
