//! A place in the event log, and the events around it.

use crate::event_log::TimeRange;
use crate::state::SandboxState;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// Where a page begins, seen in the direction of its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageStart {
    /// At the query's beginning.
    First,
    /// After an event.
    After(u64),
    /// Before an event: the page ends there.
    Before(u64),
}

/// The events from `low` to `high`, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeSpan {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) ascending: bool,
}

impl PageStart {
    /// Encodes the position in a URL, in front of the query.
    pub(super) fn encode(self, query: &str) -> String {
        let (direction, at) = match self {
            Self::First => ('f', 0),
            Self::After(at) => ('n', at),
            Self::Before(at) => ('p', at),
        };
        BASE64_URL_SAFE_NO_PAD.encode(format!("{direction}{at} {query}"))
    }

    /// The inverse of [`Start::write`].
    pub(super) fn decode(text: &str) -> Option<(Self, String)> {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (place, query) = text.split_once(' ')?;
        let at = place.get(1..)?.parse().ok()?;
        let start = match place.get(..1)? {
            "f" => Self::First,
            "n" => Self::After(at),
            "p" => Self::Before(at),
            _ => return None,
        };
        Some((start, query.to_owned()))
    }
}

impl TimeSpan {
    /// Returns a page in the order of the query, with the positions of the next and previous page.
    pub(super) fn read_page(
        self,
        state: &SandboxState,
        start: PageStart,
        limit: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> (Vec<Value>, PageStart, PageStart) {
        let whole: TimeRange = (Included(self.low), Included(self.high));
        let (above, below) = (|at: u64| (Excluded(at), whole.1), |at: u64| (whole.0, Excluded(at)));
        let (range, back) = match (start, self.ascending) {
            (PageStart::First, ascending) => (whole, !ascending),
            (PageStart::After(at), true) => (above(at), false),
            (PageStart::After(at), false) => (below(at), true),
            (PageStart::Before(at), true) => (below(at), true),
            (PageStart::Before(at), false) => (above(at), false),
        };
        let mut page =
            state.event_log.read_page(clip_range(range, whole), back, limit, state.clock.now(), wanted);
        if matches!(start, PageStart::Before(_)) {
            page.reverse();
        }
        // An empty page lies between its neighbours.
        let beside = |at: u64, on: bool| {
            if on == self.ascending { at.saturating_add(1) } else { at.saturating_sub(1) }
        };
        let (next, previous) = match (page.first(), page.last(), start) {
            (Some((first, _)), Some((last, _)), _) => (PageStart::After(*last), PageStart::Before(*first)),
            (_, _, PageStart::After(at)) => (start, PageStart::Before(beside(at, true))),
            (_, _, PageStart::Before(at)) => (PageStart::After(beside(at, false)), start),
            (_, _, PageStart::First) => (start, start),
        };
        (page.into_iter().map(|(_, event)| event).collect(), next, previous)
    }
}

/// An invented position does not leave the time span.
fn clip_range(range: TimeRange, whole: TimeRange) -> TimeRange {
    let value = |bound: Bound<u64>| match bound {
        Included(at) | Excluded(at) => at,
        Unbounded => 0,
    };
    let low = if value(range.0) < value(whole.0) { whole.0 } else { range.0 };
    let high = if value(range.1) > value(whole.1) { whole.1 } else { range.1 };
    (low, high)
}
