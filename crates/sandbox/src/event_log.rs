use mailtrail_mail::Timestamp;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The events that happened, in their order, each with when it appears. It forgets the oldest beyond [`EVENTS`] and
/// [`BYTES`].
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    events: BTreeMap<u64, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    appears: Timestamp,
    /// As JSON, which takes a fraction of the memory that the values do.
    text: Box<str>,
}

/// A part of the log, by the events' microseconds.
pub(crate) type Range = (Bound<u64>, Bound<u64>);

impl Log {
    /// Adds the event of that microsecond; no two have the same.
    pub(crate) fn put(&self, at: u64, appears: Timestamp, data: &Map<String, Value>) {
        let text = Value::Object(data.clone()).to_string().into_boxed_str();
        let mut log = self.entries();
        log.bytes += text.len();
        log.events.insert(at, Entry { appears, text });
        while log.events.len() > EVENTS || log.bytes > BYTES {
            let Some((_, oldest)) = log.events.pop_first() else { break };
            log.bytes -= oldest.text.len();
        }
    }

    /// Events of a range that have appeared and are `wanted`, at most `limit`: the first ones, or the last ones with
    /// the last first.
    pub(crate) fn page(
        &self,
        range: Range,
        back: bool,
        limit: usize,
        now: Timestamp,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<(u64, Value)> {
        let read = |(at, entry): (&u64, &Entry)| {
            let value = serde_json::from_str(&entry.text).ok()?;
            (entry.appears <= now && wanted(&value)).then_some((*at, value))
        };
        if is_empty(range) {
            return Vec::new();
        }
        let log = self.entries();
        let events = log.events.range(range);
        if back {
            events.rev().filter_map(read).take(limit).collect()
        } else {
            events.filter_map(read).take(limit).collect()
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing can lie in it; `BTreeMap` panics on some of these.
fn is_empty(range: Range) -> bool {
    use Bound::{Excluded, Included};
    match range {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

/// Events kept.
const EVENTS: usize = 100_000;
/// Bytes of events kept.
const BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::ops::Bound::{Excluded, Included, Unbounded};

    #[test]
    fn pages_go_both_ways_and_show_what_has_appeared() {
        let log = Log::default();
        for (at, appears) in [(1, 1), (2, 9), (3, 3), (4, 4)] {
            let data = Map::from_iter([("n".to_owned(), json!(at))]);
            log.put(at, Timestamp::from_seconds(appears), &data);
        }
        let page = |range, back, limit, now| -> Vec<u64> {
            let page = log.page(range, back, limit, Timestamp::from_seconds(now), |event| event["n"] != 3);
            page.into_iter().map(|(at, _)| at).collect()
        };
        assert_eq!(page((Unbounded, Unbounded), false, 9, 5), [1, 4]);
        assert_eq!(page((Unbounded, Unbounded), false, 2, 9), [1, 2]);
        assert_eq!(page((Excluded(1), Included(4)), true, 9, 9), [4, 2]);
        assert_eq!(page((Excluded(4), Included(4)), false, 9, 9), [0; 0]);
        assert_eq!(page((Included(5), Included(4)), false, 9, 9), [0; 0]);
    }
}
