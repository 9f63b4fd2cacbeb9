//! Rate limit of one upstream, reduced adaptively while it returns throttling replies.

use mailtrail_mail::{Rate, Timestamp};
use std::time::Duration;

/// The pace of one upstream.
#[derive(Debug)]
pub struct Throttle {
    configured: Option<TokenBucket>,
    adaptive: Option<AdaptiveLimit>,
    paused_until: Timestamp,
    accepted: RecentRate,
}

/// Tokens that come evenly. In any time of the rate's length there are never more of them than it allows.
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    /// Milliseconds from token to token.
    interval_ms: f64,
    /// Maximum number of tokens.
    burst: f64,
    /// When, in milliseconds since the epoch, the bucket is full again.
    full_at_ms: f64,
}

/// Reduced rate after a throttling reply.
#[derive(Debug)]
struct AdaptiveLimit {
    bucket: TokenBucket,
    /// Messages a second before it complained.
    rate_before: f64,
    /// When the pace last changed.
    changed_at: Timestamp,
    /// Whether it took something since.
    has_accepted: bool,
}

/// Messages that were taken lately, in two times of [`WINDOW`].
#[derive(Debug, Default)]
struct RecentRate {
    window_start: Timestamp,
    current: u32,
    previous: u32,
}

impl Throttle {
    /// As fast as configured.
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            configured: rate.map(TokenBucket::from_rate),
            adaptive: None,
            paused_until: Timestamp::default(),
            accepted: RecentRate::default(),
        }
    }

    /// How many messages may start now, and where that is none, when the next may.
    pub fn available(&mut self, now: Timestamp) -> (usize, Option<Timestamp>) {
        self.increase_rate(now);
        if now < self.paused_until {
            return (0, Some(self.paused_until));
        }
        let buckets =
            self.configured.iter_mut().chain(self.adaptive.as_mut().map(|slowed| &mut slowed.bucket));
        let scarcest = buckets.map(|bucket| {
            bucket.clamp_to_now(now);
            (bucket.available(now), bucket.next_token_at(now))
        });
        match scarcest.min() {
            None => (usize::MAX, None),
            Some((0, next)) => (0, Some(next)),
            Some((room, _)) => (room, None),
        }
    }

    /// Takes tokens for dispatched messages.
    pub fn consume(&mut self, messages: usize, now: Timestamp) {
        for bucket in
            self.configured.iter_mut().chain(self.adaptive.as_mut().map(|slowed| &mut slowed.bucket))
        {
            bucket.consume(messages, now);
        }
    }

    /// The upstream took a message.
    pub fn accepted(&mut self, now: Timestamp) {
        self.accepted.record_accepted(now);
        if let Some(slowed) = &mut self.adaptive {
            slowed.has_accepted = true;
        }
    }

    /// Moves all times back after the clock was set back.
    pub fn on_clock_set_back(&mut self, back: Duration) {
        self.paused_until = self.paused_until.saturating_sub(back);
        if let Some(slowed) = &mut self.adaptive {
            slowed.changed_at = slowed.changed_at.saturating_sub(back);
        }
        self.accepted.window_start = self.accepted.window_start.saturating_sub(back);
    }

    /// Reduces the rate after a throttling reply, and pauses until a time if the reply names one.
    pub fn on_throttled(&mut self, now: Timestamp, until: Option<Timestamp>) {
        if let Some(until) = until {
            self.paused_until = self.paused_until.max(until.min(now.saturating_add(MAX_RETRY_AFTER)));
        }
        match &mut self.adaptive {
            None => {
                let rate_before = self.accepted.per_second(now).max(MIN_RATE);
                // One message's reply may be about that one: it does not stop an upstream that had little to do.
                let bucket = TokenBucket::new((rate_before / 2.0).max(MIN_INITIAL_RATE), now);
                self.adaptive =
                    Some(AdaptiveLimit { bucket, rate_before, changed_at: now, has_accepted: false });
            }
            // Messages in progress at the time of the reply get the same reply.
            Some(slowed) if now.duration_since(slowed.changed_at) >= COALESCE_WINDOW => {
                slowed.bucket = TokenBucket::new((slowed.bucket.per_second() / 2.0).max(MIN_RATE), now);
                (slowed.changed_at, slowed.has_accepted) = (now, false);
            }
            Some(_) => {}
        }
    }

    /// Messages a second that it is slowed down to, if it is.
    pub fn reduced_rate(&self) -> Option<f64> {
        self.adaptive.as_ref().map(|slowed| slowed.bucket.per_second())
    }

    /// End of the pause that the upstream requested, if there is one.
    pub fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        (now < self.paused_until).then_some(self.paused_until)
    }

    /// Half as fast again whenever it took mail for a while and did not complain; well above where it complained first
    /// the matter is forgotten.
    fn increase_rate(&mut self, now: Timestamp) {
        let Some(slowed) = &mut self.adaptive else { return };
        if !slowed.has_accepted || now.duration_since(slowed.changed_at) < INCREASE_AFTER {
            return;
        }
        let faster = slowed.bucket.per_second() * 1.5;
        if faster > slowed.rate_before * DROP_LIMIT_FACTOR {
            self.adaptive = None;
            return;
        }
        slowed.bucket.interval_ms = 1000.0 / faster;
        (slowed.changed_at, slowed.has_accepted) = (now, false);
    }
}

impl TokenBucket {
    fn from_rate(rate: Rate) -> Self {
        let (messages, time) = (rate.count as f64, rate.per.as_secs_f64() * 1000.0);
        let burst = (messages / 20.0).floor().max(1.0);
        Self { interval_ms: time / (messages - burst + 1.0), burst, full_at_ms: 0.0 }
    }

    /// One at a time, the first one an interval from now.
    fn new(per_second: f64, now: Timestamp) -> Self {
        let interval_ms = 1000.0 / per_second;
        Self { interval_ms, burst: 1.0, full_at_ms: now.as_millis() as f64 + interval_ms }
    }

    fn per_second(&self) -> f64 {
        1000.0 / self.interval_ms
    }

    /// After the clock was set back, no message waits longer than for an empty bucket.
    fn clamp_to_now(&mut self, now: Timestamp) {
        self.full_at_ms = self.full_at_ms.min(now.as_millis() as f64 + self.burst * self.interval_ms);
    }

    fn deficit(&self, now: Timestamp) -> f64 {
        (self.full_at_ms - now.as_millis() as f64).max(0.0) / self.interval_ms
    }

    fn available(&self, now: Timestamp) -> usize {
        // Never negative and never above the burst.
        (self.burst - self.deficit(now) + ROUNDING_TOLERANCE).max(0.0) as usize
    }

    fn next_token_at(&self, now: Timestamp) -> Timestamp {
        let wait = (self.deficit(now) - self.burst + 1.0).max(0.0) * self.interval_ms;
        now.saturating_add(Duration::from_secs_f64(wait.ceil().max(1.0) / 1000.0))
    }

    fn consume(&mut self, messages: usize, now: Timestamp) {
        self.full_at_ms = self.full_at_ms.max(now.as_millis() as f64) + self.interval_ms * messages as f64;
    }
}

impl RecentRate {
    fn record_accepted(&mut self, now: Timestamp) {
        self.rotate_window(now);
        self.current = self.current.saturating_add(1);
    }

    fn per_second(&mut self, now: Timestamp) -> f64 {
        self.rotate_window(now);
        let age = now.duration_since(self.window_start).as_secs_f64() / RATE_WINDOW.as_secs_f64();
        (f64::from(self.previous) * (1.0 - age) + f64::from(self.current)) / RATE_WINDOW.as_secs_f64()
    }

    fn rotate_window(&mut self, now: Timestamp) {
        let age = now.duration_since(self.window_start);
        if age >= RATE_WINDOW * 2 {
            *self = Self { window_start: now, current: 0, previous: 0 };
        } else if age >= RATE_WINDOW {
            *self = Self {
                window_start: self.window_start.saturating_add(RATE_WINDOW),
                current: 0,
                previous: self.current,
            };
        }
    }
}

/// Minimum rate in messages per second, whatever the replies: one per minute.
const MIN_RATE: f64 = 1.0 / 60.0;
/// Messages a second that it is sent at least after its first complaint.
const MIN_INITIAL_RATE: f64 = 1.0;
/// How much faster than at the first complaint it must be, until that is forgotten.
const DROP_LIMIT_FACTOR: f64 = 4.0;
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Complaints within this time are one.
const COALESCE_WINDOW: Duration = Duration::from_secs(2);
/// Time without a complaint after which it gets faster.
const INCREASE_AFTER: Duration = Duration::from_secs(10);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);
/// Share of a token by which times in milliseconds may be short.
const ROUNDING_TOLERANCE: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    fn at_second(seconds: f64) -> Timestamp {
        Timestamp::from_millis(1_789_387_200_000 + (seconds * 1000.0) as u64)
    }

    /// When messages go if they go as soon as they may.
    fn collect_starts(pace: &mut Throttle, end: f64) -> Vec<Timestamp> {
        let (mut starts, mut now) = (Vec::new(), at_second(0.0));
        while now < at_second(end) {
            match pace.available(now) {
                (0, next) => now = next.unwrap(),
                (room, _) => {
                    let some = room.min(7);
                    pace.consume(some, now);
                    starts.extend(std::iter::repeat_n(now, some));
                }
            }
        }
        starts
    }

    #[test]
    fn never_exceeds_rate_in_any_window() {
        for (count, seconds, expected) in
            [(600, 60, 1800), (300, 3600, 15), (1, 1, 180), (7, 60, 21), (5000, 1, 1)]
        {
            let per = Duration::from_secs(seconds);
            let mut pace = Throttle::new(Some(Rate { count, per }));
            let starts = collect_starts(&mut pace, if count == 5000 { 3.0 } else { 180.0 });
            let most = starts
                .iter()
                .map(|from| {
                    starts.iter().filter(|start| *start >= from && start.duration_since(*from) < per).count()
                })
                .max();
            assert!(most.unwrap() <= count as usize, "{count} in {seconds} s: {most:?}");
            assert!(starts.len() >= expected - expected / 10, "{count} in {seconds} s: {}", starts.len());
        }
    }

    #[test]
    fn clock_set_back_delays_nothing() {
        let mut pace = Throttle::new(Some(Rate { count: 60, per: Duration::from_secs(60) }));
        let (room, _) = pace.available(at_second(9000.0));
        pace.consume(room, at_second(9000.0));
        let (room, next) = pace.available(at_second(0.0));
        assert!(room == 0 && next.unwrap() < at_second(2.0), "{next:?}");
        assert_eq!(pace.available(next.unwrap()).0, 1);
    }

    #[test]
    fn unlimited_without_rate() {
        assert_eq!(Throttle::new(None).available(at_second(0.0)), (usize::MAX, None));
    }

    #[test]
    fn halves_rate_on_throttling_and_recovers() {
        let mut pace = Throttle::new(None);
        (0..100).for_each(|i| pace.accepted(at_second(f64::from(i) / 10.0)));
        pace.on_throttled(at_second(10.0), None);
        let halved = pace.reduced_rate().unwrap();
        assert!((halved - 5.0).abs() < 0.6, "{halved}");
        pace.on_throttled(at_second(10.5), None);
        assert_eq!(pace.reduced_rate(), Some(halved), "the same complaint");
        pace.on_throttled(at_second(13.0), None);
        assert!(pace.reduced_rate().unwrap() < halved);
        let mut now = 13.0;
        while pace.reduced_rate().is_some() {
            now += 5.0;
            pace.accepted(at_second(now));
            pace.available(at_second(now));
            assert!(now < 500.0, "it never recovers");
        }
    }

    #[test]
    fn single_throttle_does_not_stop_idle_upstream() {
        let mut pace = Throttle::new(None);
        pace.on_throttled(at_second(10.0), None);
        assert_eq!(pace.reduced_rate(), Some(MIN_INITIAL_RATE));
        pace.on_throttled(at_second(13.0), None);
        assert_eq!(pace.reduced_rate(), Some(MIN_INITIAL_RATE / 2.0));
    }

    #[test]
    fn rate_increases_only_after_acceptance() {
        let mut pace = Throttle::new(None);
        for seconds in 0..1000 {
            pace.on_throttled(at_second(f64::from(seconds) * 3.0), None);
        }
        assert_eq!(pace.reduced_rate(), Some(MIN_RATE));
        pace.available(at_second(9000.0));
        assert_eq!(pace.reduced_rate(), Some(MIN_RATE));
    }

    #[test]
    fn caps_retry_after_at_one_day() {
        let mut pace = Throttle::new(None);
        pace.on_throttled(at_second(0.0), Some(at_second(90.0)));
        assert_eq!(pace.available(at_second(89.0)), (0, Some(at_second(90.0))));
        assert_eq!(pace.available(at_second(90.0)).0, 1);
        pace.on_throttled(at_second(100.0), Some(at_second(1e7)));
        assert_eq!(pace.paused_until(at_second(101.0)), Some(at_second(100.0 + 86_400.0)));
    }
}
