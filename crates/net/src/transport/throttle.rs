//! How fast an upstream is sent mail: as configured, and slower for as long as it says that it is too much.

use mailtrail_mail::{Rate, Timestamp};
use std::time::Duration;

/// The pace of one upstream.
#[derive(Debug)]
pub struct Pace {
    allowed: Option<Bucket>,
    slowed: Option<Slowed>,
    paused_until: Timestamp,
    taken: Recent,
}

/// Tokens that come evenly. In any time of the rate's length there are never more of them than it allows.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Milliseconds from token to token.
    interval: f64,
    /// Tokens that may lie there.
    burst: f64,
    /// When, in milliseconds since the epoch, the bucket is full again.
    full: f64,
}

/// What an upstream that complained is sent.
#[derive(Debug)]
struct Slowed {
    bucket: Bucket,
    /// Messages a second before it complained.
    before: f64,
    /// When the pace last changed.
    changed: Timestamp,
    /// Whether it took something since.
    works: bool,
}

/// Messages that were taken lately, in two times of [`WINDOW`].
#[derive(Debug, Default)]
struct Recent {
    since: Timestamp,
    now: u32,
    before: u32,
}

impl Pace {
    /// As fast as configured.
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            allowed: rate.map(Bucket::of),
            slowed: None,
            paused_until: Timestamp::default(),
            taken: Recent::default(),
        }
    }

    /// How many messages may start now, and where that is none, when the next may.
    pub fn room(&mut self, now: Timestamp) -> (usize, Option<Timestamp>) {
        self.quicken(now);
        if now < self.paused_until {
            return (0, Some(self.paused_until));
        }
        let buckets = self.allowed.iter_mut().chain(self.slowed.as_mut().map(|slowed| &mut slowed.bucket));
        let scarcest = buckets.map(|bucket| {
            bucket.keep_up(now);
            (bucket.room(now), bucket.next(now))
        });
        match scarcest.min() {
            None => (usize::MAX, None),
            Some((0, next)) => (0, Some(next)),
            Some((room, _)) => (room, None),
        }
    }

    /// So many started.
    pub fn start(&mut self, messages: usize, now: Timestamp) {
        for bucket in self.allowed.iter_mut().chain(self.slowed.as_mut().map(|slowed| &mut slowed.bucket)) {
            bucket.take(messages, now);
        }
    }

    /// The upstream took a message.
    pub fn taken(&mut self, now: Timestamp) {
        self.taken.count(now);
        if let Some(slowed) = &mut self.slowed {
            slowed.works = true;
        }
    }

    /// The clock was set back by so much: a pause does not become longer by it.
    pub fn set_back(&mut self, back: Duration) {
        self.paused_until = self.paused_until.before(back);
        if let Some(slowed) = &mut self.slowed {
            slowed.changed = slowed.changed.before(back);
        }
        self.taken.since = self.taken.since.before(back);
    }

    /// The upstream says that it is too much, and maybe until when.
    pub fn throttled(&mut self, now: Timestamp, until: Option<Timestamp>) {
        if let Some(until) = until {
            self.paused_until = self.paused_until.max(until.min(now.after(LONGEST_BELIEVED)));
        }
        match &mut self.slowed {
            None => {
                let before = self.taken.per_second(now).max(SLOWEST);
                // One message's reply may be about that one: it does not stop an upstream that had little to do.
                let bucket = Bucket::new((before / 2.0).max(FIRST), now);
                self.slowed = Some(Slowed { bucket, before, changed: now, works: false });
            }
            // What was under way when it complained says the same again.
            Some(slowed) if now.since(slowed.changed) >= ONE_COMPLAINT => {
                slowed.bucket = Bucket::new((slowed.bucket.per_second() / 2.0).max(SLOWEST), now);
                (slowed.changed, slowed.works) = (now, false);
            }
            Some(_) => {}
        }
    }

    /// Messages a second that it is slowed down to, if it is.
    pub fn slowed_to(&self) -> Option<f64> {
        self.slowed.as_ref().map(|slowed| slowed.bucket.per_second())
    }

    /// Until when it takes nothing by its own words, if so.
    pub fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        (now < self.paused_until).then_some(self.paused_until)
    }

    /// Half as fast again whenever it took mail for a while and did not complain; well above where it complained first
    /// the matter is forgotten.
    fn quicken(&mut self, now: Timestamp) {
        let Some(slowed) = &mut self.slowed else { return };
        if !slowed.works || now.since(slowed.changed) < CALM {
            return;
        }
        let faster = slowed.bucket.per_second() * 1.5;
        if faster > slowed.before * FORGOTTEN {
            self.slowed = None;
            return;
        }
        slowed.bucket.interval = 1000.0 / faster;
        (slowed.changed, slowed.works) = (now, false);
    }
}

impl Bucket {
    fn of(rate: Rate) -> Self {
        let (messages, time) = (rate.messages as f64, rate.time.as_secs_f64() * 1000.0);
        let burst = (messages / 20.0).floor().max(1.0);
        Self { interval: time / (messages - burst + 1.0), burst, full: 0.0 }
    }

    /// One at a time, the first one an interval from now.
    fn new(per_second: f64, now: Timestamp) -> Self {
        let interval = 1000.0 / per_second;
        Self { interval, burst: 1.0, full: now.millis() as f64 + interval }
    }

    fn per_second(&self) -> f64 {
        1000.0 / self.interval
    }

    /// A clock that was set back makes nobody wait for longer than an empty bucket does.
    fn keep_up(&mut self, now: Timestamp) {
        self.full = self.full.min(now.millis() as f64 + self.burst * self.interval);
    }

    fn missing(&self, now: Timestamp) -> f64 {
        (self.full - now.millis() as f64).max(0.0) / self.interval
    }

    fn room(&self, now: Timestamp) -> usize {
        // Never negative and never above the burst.
        (self.burst - self.missing(now) + ROUNDING).max(0.0) as usize
    }

    fn next(&self, now: Timestamp) -> Timestamp {
        let wait = (self.missing(now) - self.burst + 1.0).max(0.0) * self.interval;
        now.after(Duration::from_secs_f64(wait.ceil().max(1.0) / 1000.0))
    }

    fn take(&mut self, messages: usize, now: Timestamp) {
        self.full = self.full.max(now.millis() as f64) + self.interval * messages as f64;
    }
}

impl Recent {
    fn count(&mut self, now: Timestamp) {
        self.turn(now);
        self.now = self.now.saturating_add(1);
    }

    fn per_second(&mut self, now: Timestamp) -> f64 {
        self.turn(now);
        let age = now.since(self.since).as_secs_f64() / WINDOW.as_secs_f64();
        (f64::from(self.before) * (1.0 - age) + f64::from(self.now)) / WINDOW.as_secs_f64()
    }

    fn turn(&mut self, now: Timestamp) {
        let age = now.since(self.since);
        if age >= WINDOW * 2 {
            *self = Self { since: now, now: 0, before: 0 };
        } else if age >= WINDOW {
            *self = Self { since: self.since.after(WINDOW), now: 0, before: self.now };
        }
    }
}

/// Messages a second that an upstream is always sent, whatever it says: one a minute.
const SLOWEST: f64 = 1.0 / 60.0;
/// Messages a second that it is sent at least after its first complaint.
const FIRST: f64 = 1.0;
/// How much faster than at the first complaint it must be, until that is forgotten.
const FORGOTTEN: f64 = 4.0;
const WINDOW: Duration = Duration::from_secs(10);
/// Complaints within this time are one.
const ONE_COMPLAINT: Duration = Duration::from_secs(2);
/// Time without a complaint after which it gets faster.
const CALM: Duration = Duration::from_secs(10);
const LONGEST_BELIEVED: Duration = Duration::from_secs(86_400);
/// Share of a token by which times in milliseconds may be short.
const ROUNDING: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_millis(1_789_387_200_000 + (seconds * 1000.0) as u64)
    }

    /// When messages go if they go as soon as they may.
    fn starts(pace: &mut Pace, end: f64) -> Vec<Timestamp> {
        let (mut starts, mut now) = (Vec::new(), at(0.0));
        while now < at(end) {
            match pace.room(now) {
                (0, next) => now = next.unwrap(),
                (room, _) => {
                    let some = room.min(7);
                    pace.start(some, now);
                    starts.extend(std::iter::repeat_n(now, some));
                }
            }
        }
        starts
    }

    #[test]
    fn no_time_of_the_rates_length_holds_more_than_it_allows() {
        for (messages, seconds, expected) in
            [(600, 60, 1800), (300, 3600, 15), (1, 1, 180), (7, 60, 21), (5000, 1, 1)]
        {
            let time = Duration::from_secs(seconds);
            let mut pace = Pace::new(Some(Rate { messages, time }));
            let starts = starts(&mut pace, if messages == 5000 { 3.0 } else { 180.0 });
            let most = starts
                .iter()
                .map(|from| starts.iter().filter(|start| *start >= from && start.since(*from) < time).count())
                .max();
            assert!(most.unwrap() <= messages as usize, "{messages} in {seconds} s: {most:?}");
            assert!(starts.len() >= expected - expected / 10, "{messages} in {seconds} s: {}", starts.len());
        }
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_up() {
        let mut pace = Pace::new(Some(Rate { messages: 60, time: Duration::from_secs(60) }));
        let (room, _) = pace.room(at(9000.0));
        pace.start(room, at(9000.0));
        let (room, next) = pace.room(at(0.0));
        assert!(room == 0 && next.unwrap() < at(2.0), "{next:?}");
        assert_eq!(pace.room(next.unwrap()).0, 1);
    }

    #[test]
    fn without_a_rate_there_is_no_bound() {
        assert_eq!(Pace::new(None).room(at(0.0)), (usize::MAX, None));
    }

    #[test]
    fn an_upstream_that_complains_gets_half_and_recovers() {
        let mut pace = Pace::new(None);
        (0..100).for_each(|i| pace.taken(at(f64::from(i) / 10.0)));
        pace.throttled(at(10.0), None);
        let halved = pace.slowed_to().unwrap();
        assert!((halved - 5.0).abs() < 0.6, "{halved}");
        pace.throttled(at(10.5), None);
        assert_eq!(pace.slowed_to(), Some(halved), "the same complaint");
        pace.throttled(at(13.0), None);
        assert!(pace.slowed_to().unwrap() < halved);
        let mut now = 13.0;
        while pace.slowed_to().is_some() {
            now += 5.0;
            pace.taken(at(now));
            pace.room(at(now));
            assert!(now < 500.0, "it never recovers");
        }
    }

    #[test]
    fn one_complaint_does_not_stop_an_idle_upstream() {
        let mut pace = Pace::new(None);
        pace.throttled(at(10.0), None);
        assert_eq!(pace.slowed_to(), Some(FIRST));
        pace.throttled(at(13.0), None);
        assert_eq!(pace.slowed_to(), Some(FIRST / 2.0));
    }

    #[test]
    fn nothing_gets_faster_before_something_was_taken() {
        let mut pace = Pace::new(None);
        for seconds in 0..1000 {
            pace.throttled(at(f64::from(seconds) * 3.0), None);
        }
        assert_eq!(pace.slowed_to(), Some(SLOWEST));
        pace.room(at(9000.0));
        assert_eq!(pace.slowed_to(), Some(SLOWEST));
    }

    #[test]
    fn its_own_wish_is_kept_for_a_day_at_most() {
        let mut pace = Pace::new(None);
        pace.throttled(at(0.0), Some(at(90.0)));
        assert_eq!(pace.room(at(89.0)), (0, Some(at(90.0))));
        assert_eq!(pace.room(at(90.0)).0, 1);
        pace.throttled(at(100.0), Some(at(1e7)));
        assert_eq!(pace.paused_until(at(101.0)), Some(at(100.0 + 86_400.0)));
    }
}
