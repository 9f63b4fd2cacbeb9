//! Pending notifications of one channel, in order, with backoff.

use crate::alarms::notification::Notification;
use mailtrail_mail::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Pending notifications and the time of the next attempt.
#[derive(Debug, Default)]
pub(super) struct RetryQueue {
    pending: VecDeque<Arc<Notification>>,
    /// Earliest time of the next attempt.
    next_attempt_at: Timestamp,
    /// Number of failed attempts for the first notification.
    failures: u32,
}

impl RetryQueue {
    /// Appends a notification. Returns the oldest one if the queue was full; it is given up.
    pub fn push(&mut self, notification: Arc<Notification>) -> Option<Arc<Notification>> {
        let full = self.pending.len() >= MAX_PENDING;
        self.pending.push_back(notification);
        if full { self.pop_first() } else { None }
    }

    /// Returns the first notification, if its attempt is due.
    pub fn next_due(&self, now: Timestamp) -> Option<Arc<Notification>> {
        self.pending.front().filter(|_| self.next_attempt_at <= now).cloned()
    }

    /// Removes the first notification after its delivery.
    pub fn mark_delivered(&mut self) {
        self.pop_first();
    }

    /// Records a failed attempt of the first notification. Returns the number of its failures and whether it was given
    /// up.
    pub fn record_failure(&mut self, now: Timestamp) -> (u32, bool) {
        self.failures = self.failures.saturating_add(1);
        let pause = INITIAL_BACKOFF.saturating_mul(1 << (self.failures - 1).min(16)).min(MAX_BACKOFF);
        self.next_attempt_at = now.saturating_add(pause);
        let old = self.pending.front().is_some_and(|first| now.duration_since(first.created_at) >= MAX_AGE);
        let failures = self.failures;
        if old {
            self.pending.pop_front();
            self.failures = 0;
        }
        (failures, old)
    }

    /// Drops all pending notifications.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn pop_first(&mut self) -> Option<Arc<Notification>> {
        (self.next_attempt_at, self.failures) = (Timestamp::default(), 0);
        self.pending.pop_front()
    }
}

const MAX_PENDING: usize = 100;
/// Delay after the first failure; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Age at which a notification is given up.
const MAX_AGE: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::TrackingId;

    fn sample_notification(second: u64) -> Arc<Notification> {
        let created_at = Timestamp::from_secs(second);
        Arc::new(Notification { id: TrackingId::new(created_at, 1), created_at, updates: Vec::new() })
    }

    #[test]
    fn retries_for_a_day_with_exponential_backoff() {
        let mut queue = RetryQueue::default();
        assert!(queue.push(sample_notification(1000)).is_none());
        let (mut now, mut tries) = (Timestamp::from_secs(1000), Vec::new());
        while let Some(first) = queue.next_due(now) {
            let (failures, given_up) = queue.record_failure(now);
            tries.push(now.as_secs());
            if given_up {
                assert_eq!((failures as usize, first.created_at.as_secs()), (tries.len(), 1000));
                break;
            }
            now = queue.next_attempt_at;
        }
        assert_eq!(tries[..8], [1000, 1005, 1015, 1035, 1075, 1155, 1315, 1615]);
        assert!(tries.last().unwrap() - 1000 >= 86_400 && tries.len() < 300, "{}", tries.len());
        assert!(queue.next_due(now.saturating_add(MAX_BACKOFF)).is_none());
    }

    #[test]
    fn drops_the_oldest_when_full() {
        let mut queue = RetryQueue::default();
        assert!((0..100).all(|second| queue.push(sample_notification(second)).is_none()));
        assert_eq!(queue.push(sample_notification(100)).map(|old| old.created_at.as_secs()), Some(0));
        queue.mark_delivered();
        assert_eq!(queue.next_due(Timestamp::default()).map(|first| first.created_at.as_secs()), Some(2));
    }
}
