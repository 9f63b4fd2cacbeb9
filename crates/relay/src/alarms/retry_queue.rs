//! What waits to be told in one of the two ways, in its order.

use crate::alarms::notification::Bulletin;
use mailtrail_mail::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Bulletins that wait, and when the first is tried.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Arc<Bulletin>>,
    /// Not before that.
    due: Timestamp,
    /// How often the first was tried in vain.
    failures: u32,
}

impl Outbox {
    /// One more waits; gives back one that is given up for it.
    pub fn add(&mut self, bulletin: Arc<Bulletin>) -> Option<Arc<Bulletin>> {
        let full = self.waiting.len() >= MOST;
        self.waiting.push_back(bulletin);
        if full { self.drop_first() } else { None }
    }

    /// The first, if it may be tried.
    pub fn next(&self, now: Timestamp) -> Option<Arc<Bulletin>> {
        self.waiting.front().filter(|_| self.due <= now).cloned()
    }

    /// The first was told.
    pub fn done(&mut self) {
        self.drop_first();
    }

    /// The first was tried in vain: how often so far, and whether it is given up.
    pub fn failed(&mut self, now: Timestamp) -> (u32, bool) {
        self.failures = self.failures.saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(LONGEST_PAUSE);
        self.due = now.saturating_add(pause);
        let old = self.waiting.front().is_some_and(|first| now.duration_since(first.at) >= GIVE_UP_AFTER);
        let failures = self.failures;
        if old {
            self.waiting.pop_front();
            self.failures = 0;
        }
        (failures, old)
    }

    /// Nobody is to be told any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn drop_first(&mut self) -> Option<Arc<Bulletin>> {
        (self.due, self.failures) = (Timestamp::default(), 0);
        self.waiting.pop_front()
    }
}

/// Bulletins that wait at most.
const MOST: usize = 100;
/// Pause after a try in vain; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long one is tried.
const GIVE_UP_AFTER: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::TrackingId;

    fn bulletin(second: u64) -> Arc<Bulletin> {
        let at = Timestamp::from_secs(second);
        Arc::new(Bulletin { id: TrackingId::new(at, 1), at, items: Vec::new() })
    }

    #[test]
    fn one_is_tried_for_a_day_with_growing_pauses() {
        let mut outbox = Outbox::default();
        assert!(outbox.add(bulletin(1000)).is_none());
        let (mut now, mut tries) = (Timestamp::from_secs(1000), Vec::new());
        while let Some(first) = outbox.next(now) {
            let (failures, over) = outbox.failed(now);
            tries.push(now.as_secs());
            if over {
                assert_eq!((failures as usize, first.at.as_secs()), (tries.len(), 1000));
                break;
            }
            now = outbox.due;
        }
        assert_eq!(tries[..8], [1000, 1005, 1015, 1035, 1075, 1155, 1315, 1615]);
        assert!(tries.last().unwrap() - 1000 >= 86_400 && tries.len() < 300, "{}", tries.len());
        assert!(outbox.next(now.saturating_add(LONGEST_PAUSE)).is_none());
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut outbox = Outbox::default();
        assert!((0..100).all(|second| outbox.add(bulletin(second)).is_none()));
        assert_eq!(outbox.add(bulletin(100)).map(|old| old.at.as_secs()), Some(0));
        outbox.done();
        assert_eq!(outbox.next(Timestamp::default()).map(|first| first.at.as_secs()), Some(2));
    }
}
