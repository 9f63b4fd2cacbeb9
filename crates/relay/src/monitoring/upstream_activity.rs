//! In-memory activity per upstream (messages relayed, events received), used to detect missing webhooks.

use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Activity of all upstreams.
#[derive(Clone, Debug, Default)]
pub struct UpstreamActivity(Arc<Mutex<ActivityTable>>);

#[derive(Debug, Default)]
struct ActivityTable {
    by_upstream: BTreeMap<String, ActivityStats>,
    /// Messages without expected provider events, such as alarm mail.
    excluded: VecDeque<TrackingId>,
}

/// Activity of one upstream.
#[derive(Clone, Debug, Default)]
pub struct ActivityStats {
    /// Number of messages relayed since the last event, and the time of the first.
    pub relayed_without_event: Option<(u64, Timestamp)>,
    /// Number of signature failures since the last valid signature, and the time of the first.
    pub signature_failures: Option<(u64, Timestamp)>,
    /// Latest relayed messages: time, and delay since their acceptance.
    relay_latencies: VecDeque<(Timestamp, Duration)>,
    /// Latest validly signed events: time of receipt, and age of the signature in milliseconds by both clocks; negative
    /// if the provider's clock is ahead.
    signature_ages: VecDeque<(Timestamp, i64)>,
}

impl UpstreamActivity {
    /// Excludes a message from the counts, because none of its events is expected.
    pub fn exclude_message(&self, id: TrackingId) {
        push_bounded(&mut self.lock_table().excluded, id);
    }

    /// Records that the upstream accepted a message at `now`.
    pub fn record_relayed(&self, upstream: &str, id: TrackingId, now: Timestamp) {
        if self.lock_table().excluded.contains(&id) {
            return;
        }
        let waited = now.duration_since(id.timestamp());
        self.update_stats(upstream, |stats| {
            stats.relayed_without_event = Some(bump_count(stats.relayed_without_event, now));
            push_bounded(&mut stats.relay_latencies, (now, waited));
        });
    }

    /// Records a provider event, which ends the counts of messages without event and of signature failures.
    pub fn record_event(&self, upstream: &str) {
        self.update_stats(upstream, |stats| {
            (stats.relayed_without_event, stats.signature_failures) = (None, None)
        });
    }

    /// Records a validly signed request without an event.
    pub fn record_valid_signature(&self, upstream: &str) {
        self.update_stats(upstream, |stats| stats.signature_failures = None);
    }

    /// Records that a request received at `now` was signed at `signed_at`.
    pub fn record_signature_age(&self, upstream: &str, now: Timestamp, signed_at: Timestamp) {
        let age = i128::from(now.as_millis()) - i128::from(signed_at.as_millis());
        let age = i64::try_from(age).unwrap_or(i64::MAX);
        self.update_stats(upstream, |stats| push_bounded(&mut stats.signature_ages, (now, age)));
    }

    /// Records a request with a wrong signature or secret.
    pub fn record_signature_failure(&self, upstream: &str, now: Timestamp) {
        self.update_stats(upstream, |stats| {
            stats.signature_failures = Some(bump_count(stats.signature_failures, now))
        });
    }

    /// Returns a copy of the current activity of an upstream.
    pub fn snapshot(&self, upstream: &str) -> ActivityStats {
        self.lock_table().by_upstream.get(upstream).cloned().unwrap_or_default()
    }

    fn update_stats(&self, upstream: &str, change: impl FnOnce(&mut ActivityStats)) {
        let mut beats = self.lock_table();
        match beats.by_upstream.get_mut(upstream) {
            Some(stats) => change(stats),
            None => change(beats.by_upstream.entry(upstream.to_owned()).or_default()),
        }
    }

    fn lock_table(&self) -> MutexGuard<'_, ActivityTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActivityStats {
    /// Returns the 95th percentile of the relay latency since `since`; `None` if there are too few samples.
    pub fn relay_latency_p95(&self, since: Timestamp) -> Option<Duration> {
        let mut times: Vec<_> =
            self.relay_latencies.iter().filter(|(at, _)| *at >= since).map(|(_, waited)| *waited).collect();
        if times.len() < MIN_SAMPLES {
            return None;
        }
        times.sort_unstable();
        times.get(times.len() * 95 / 100).copied()
    }

    /// Returns the milliseconds by which our clock is ahead of the provider's; negative if the provider's is ahead. It
    /// is the minimum age of signatures since `since`, because retries of old events have a higher one. `None` if there
    /// are too few samples.
    pub fn clock_lag(&self, since: Timestamp) -> Option<i64> {
        let ages = self.signature_ages.iter().filter(|(at, _)| *at >= since).map(|(_, age)| *age);
        (ages.clone().count() >= MIN_SAMPLES).then(|| ages.min()).flatten()
    }
}

fn bump_count(known: Option<(u64, Timestamp)>, now: Timestamp) -> (u64, Timestamp) {
    known.map_or((1, now), |(count, since)| (count + 1, since))
}

fn push_bounded<T>(last: &mut VecDeque<T>, one: T) {
    if last.len() == MAX_SAMPLES {
        last.pop_front();
    }
    last.push_back(one);
}

/// Samples kept per upstream and kind, and excluded messages.
const MAX_SAMPLES: usize = 500;
/// Minimum number of samples for a percentile or a clock lag.
const MIN_SAMPLES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp_at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn tracking_id_at(seconds: u64) -> TrackingId {
        TrackingId::new(timestamp_at(seconds), fastrand::u128(..))
    }

    #[test]
    fn event_resets_relayed_without_event() {
        let activity = UpstreamActivity::default();
        let own = tracking_id_at(0);
        activity.exclude_message(own);
        for (id, second) in [(own, 0), (tracking_id_at(1), 1), (tracking_id_at(2), 2)] {
            activity.record_relayed("mailgun", id, timestamp_at(second));
        }
        activity.record_signature_failure("mailgun", timestamp_at(3));
        assert_eq!(activity.snapshot("mailgun").relayed_without_event, Some((2, timestamp_at(1))));
        assert_eq!(activity.snapshot("mailgun").signature_failures, Some((1, timestamp_at(3))));
        activity.record_event("mailgun");
        assert_eq!(
            (
                activity.snapshot("mailgun").relayed_without_event,
                activity.snapshot("mailgun").signature_failures
            ),
            (None, None)
        );
        assert_eq!(activity.snapshot("brevo").relayed_without_event, None);
    }

    #[test]
    fn relay_latency_covers_recent_messages_only() {
        let activity = UpstreamActivity::default();
        for second in 0..1000 {
            activity.record_relayed("mailgun", tracking_id_at(0), timestamp_at(second));
        }
        let stats = activity.snapshot("mailgun");
        assert_eq!(stats.relay_latency_p95(timestamp_at(900)), Some(Duration::from_secs(995)));
        assert_eq!(stats.relay_latency_p95(timestamp_at(0)), Some(Duration::from_secs(975)));
        assert_eq!(stats.relay_latency_p95(timestamp_at(990)), None);
    }

    #[test]
    fn ignores_repeated_old_events_in_clock_lag() {
        let activity = UpstreamActivity::default();
        for number in 0..40 {
            let age = if number % 2 == 0 { 3600 } else { 2 };
            activity.record_signature_age(
                "mailgun",
                timestamp_at(10_000 + number),
                timestamp_at(10_000 + number - age),
            );
        }
        assert_eq!(activity.snapshot("mailgun").clock_lag(timestamp_at(0)), Some(2000));
        let ahead = UpstreamActivity::default();
        for number in 0..20 {
            ahead.record_signature_age(
                "mailgun",
                timestamp_at(10_000 + number),
                timestamp_at(10_300 + number),
            );
        }
        assert_eq!(ahead.snapshot("mailgun").clock_lag(timestamp_at(0)), Some(-300_000));
    }
}
