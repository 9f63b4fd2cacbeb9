//! What goes out to each upstream and what comes back from it, as far as this process saw it: enough to tell a quiet hour
//! from a broken loop.

use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The pulses of all upstreams.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Beats>>);

#[derive(Debug, Default)]
struct Beats {
    of: BTreeMap<String, Beat>,
    /// Mails that do not count.
    overlooked: VecDeque<TrackingId>,
}

/// The pulse of one.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    /// Mails that it took since its last event, and when the first of them went.
    pub unanswered: Option<(u64, Timestamp)>,
    /// Reports refused for their signature since the last one with a good one, and when the first of them came.
    pub refused: Option<(u64, Timestamp)>,
    /// The last mails: when they were taken, and how long after we took them.
    relayed: VecDeque<(Timestamp, Duration)>,
    /// The last good reports: when they came, and how long before, by the provider's clock, they were signed; negative
    /// milliseconds are ahead of ours.
    signed: VecDeque<(Timestamp, i64)>,
}

impl Pulse {
    /// That mail does not count: nobody is to miss its events.
    pub fn overlook(&self, id: TrackingId) {
        keep(&mut self.beats().overlooked, id);
    }

    /// The upstream took that mail at `now`.
    pub fn relayed(&self, upstream: &str, id: TrackingId, now: Timestamp) {
        if self.beats().overlooked.contains(&id) {
            return;
        }
        let waited = now.duration_since(id.timestamp());
        self.of(upstream, |beat| {
            beat.unanswered = Some(more(beat.unanswered, now));
            keep(&mut beat.relayed, (now, waited));
        });
    }

    /// Its provider reported.
    pub fn heard(&self, upstream: &str) {
        self.of(upstream, |beat| (beat.unanswered, beat.refused) = (None, None));
    }

    /// Its provider brought something that is no report, and the signature was good.
    pub fn proved(&self, upstream: &str) {
        self.of(upstream, |beat| beat.refused = None);
    }

    /// What its provider reported at `now` was signed at `signed_at`.
    pub fn signed(&self, upstream: &str, now: Timestamp, signed_at: Timestamp) {
        let age = i128::from(now.as_millis()) - i128::from(signed_at.as_millis());
        let age = i64::try_from(age).unwrap_or(i64::MAX);
        self.of(upstream, |beat| keep(&mut beat.signed, (now, age)));
    }

    /// Somebody reported in its name, and the signature or the secret was wrong.
    pub fn refused(&self, upstream: &str, now: Timestamp) {
        self.of(upstream, |beat| beat.refused = Some(more(beat.refused, now)));
    }

    /// Its pulse as it is now.
    pub fn beat(&self, upstream: &str) -> Beat {
        self.beats().of.get(upstream).cloned().unwrap_or_default()
    }

    fn of(&self, upstream: &str, change: impl FnOnce(&mut Beat)) {
        let mut beats = self.beats();
        match beats.of.get_mut(upstream) {
            Some(beat) => change(beat),
            None => change(beats.of.entry(upstream.to_owned()).or_default()),
        }
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    /// The time within which 95 of 100 mails went on their way since `since`; `None` where too few did to say.
    pub fn relay_time(&self, since: Timestamp) -> Option<Duration> {
        let mut times: Vec<_> =
            self.relayed.iter().filter(|(at, _)| *at >= since).map(|(_, waited)| *waited).collect();
        if times.len() < FEW {
            return None;
        }
        times.sort_unstable();
        times.get(times.len() * 95 / 100).copied()
    }

    /// How far the provider's clock is behind ours, negative when it is ahead, in milliseconds: what no report since
    /// `since` was younger than, so that repetitions of old ones do not count. `None` where too few came to say.
    pub fn clock_lag(&self, since: Timestamp) -> Option<i64> {
        let ages = self.signed.iter().filter(|(at, _)| *at >= since).map(|(_, age)| *age);
        (ages.clone().count() >= FEW).then(|| ages.min()).flatten()
    }
}

fn more(known: Option<(u64, Timestamp)>, now: Timestamp) -> (u64, Timestamp) {
    known.map_or((1, now), |(count, since)| (count + 1, since))
}

fn keep<T>(last: &mut VecDeque<T>, one: T) {
    if last.len() == LAST {
        last.pop_front();
    }
    last.push_back(one);
}

/// Of the mails and of the reports that are remembered, and of the mails that do not count.
const LAST: usize = 500;
/// Below that no figure is made.
const FEW: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn taken(seconds: u64) -> TrackingId {
        TrackingId::new(at(seconds), fastrand::u128(..))
    }

    #[test]
    fn an_event_answers_all_mail_before_it() {
        let pulse = Pulse::default();
        let own = taken(0);
        pulse.overlook(own);
        for (id, second) in [(own, 0), (taken(1), 1), (taken(2), 2)] {
            pulse.relayed("mailgun", id, at(second));
        }
        pulse.refused("mailgun", at(3));
        assert_eq!(pulse.beat("mailgun").unanswered, Some((2, at(1))));
        assert_eq!(pulse.beat("mailgun").refused, Some((1, at(3))));
        pulse.heard("mailgun");
        assert_eq!((pulse.beat("mailgun").unanswered, pulse.beat("mailgun").refused), (None, None));
        assert_eq!(pulse.beat("brevo").unanswered, None);
    }

    #[test]
    fn the_relay_time_is_of_the_last_mails() {
        let pulse = Pulse::default();
        for second in 0..1000 {
            pulse.relayed("mailgun", taken(0), at(second));
        }
        let beat = pulse.beat("mailgun");
        assert_eq!(beat.relay_time(at(900)), Some(Duration::from_secs(995)));
        assert_eq!(beat.relay_time(at(0)), Some(Duration::from_secs(975)));
        assert_eq!(beat.relay_time(at(990)), None);
    }

    #[test]
    fn repetitions_do_not_look_like_a_clock_that_lags() {
        let pulse = Pulse::default();
        for number in 0..40 {
            let age = if number % 2 == 0 { 3600 } else { 2 };
            pulse.signed("mailgun", at(10_000 + number), at(10_000 + number - age));
        }
        assert_eq!(pulse.beat("mailgun").clock_lag(at(0)), Some(2000));
        let ahead = Pulse::default();
        for number in 0..20 {
            ahead.signed("mailgun", at(10_000 + number), at(10_300 + number));
        }
        assert_eq!(ahead.beat("mailgun").clock_lag(at(0)), Some(-300_000));
    }
}
