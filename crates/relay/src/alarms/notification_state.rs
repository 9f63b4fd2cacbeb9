//! Decides which alarms are due for a notification: pure rules over the active alarms and earlier notifications.

use crate::alarms::registry::{Alarm, AlarmKind};
use mailtrail_mail::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Alarms since the process started that are active or have a notification to come.
#[derive(Debug, Default)]
pub(super) struct NotificationState(BTreeMap<(AlarmKind, String), TrackedAlarm>);

/// One alarm in a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AlarmUpdate {
    /// The latest state of the alarm; `since` is its start, regardless of gaps.
    pub alarm: Alarm,
    pub transition: Transition,
}

/// Change of an alarm since its last notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Raised,
    /// Its text differs in more than numbers.
    Changed,
    /// Still active after the repeat interval.
    Ongoing,
    /// Cleared at that time.
    Resolved(Timestamp),
}

#[derive(Debug)]
struct TrackedAlarm {
    alarm: Alarm,
    /// Time of the last notification and the normalized text in it.
    last_notified: Option<(Timestamp, String)>,
    /// Time since which the alarm is inactive.
    cleared_at: Option<Timestamp>,
}

impl NotificationState {
    /// Returns the updates due now, given the active alarms `on`. An alarm is due after it has been active for `after`,
    /// and resolved after it has been inactive for `after`, so a flapping alarm counts as one. When one update is due,
    /// all unreported active alarms join it. Alarms that last are repeated together after `repeat`.
    pub fn due_updates(
        &mut self,
        on: Vec<Alarm>,
        now: Timestamp,
        after: Duration,
        repeat: Duration,
    ) -> Vec<AlarmUpdate> {
        self.track_active(on, now);
        self.0.retain(|_, tracked| tracked.last_notified.is_some() || !tracked.is_cleared_for(now, after));
        let (mut due, mut lasts) = (false, false);
        for tracked in self.0.values() {
            match &tracked.last_notified {
                None => {
                    due |= tracked.cleared_at.is_none() && now.duration_since(tracked.alarm.since) >= after
                }
                Some((notified_at, _)) => {
                    due |= tracked.is_cleared_for(now, after) || tracked.has_changed(now);
                    lasts |= tracked.cleared_at.is_none() && now.duration_since(*notified_at) >= repeat;
                }
            }
        }
        if !due && !lasts {
            return Vec::new();
        }
        let items =
            self.0.values_mut().filter_map(|tracked| tracked.take_update(now, after, lasts)).collect();
        self.0.retain(|_, tracked| !tracked.is_cleared_for(now, after));
        items
    }

    fn track_active(&mut self, on: Vec<Alarm>, now: Timestamp) {
        for tracked in self.0.values_mut() {
            tracked.cleared_at = tracked.cleared_at.or(Some(now));
        }
        for alarm in on {
            let key = (alarm.kind, alarm.subject.clone());
            match self.0.get_mut(&key) {
                Some(tracked) => {
                    tracked.cleared_at = None;
                    tracked.alarm.text = alarm.text;
                }
                None => {
                    drop(self.0.insert(key, TrackedAlarm { alarm, last_notified: None, cleared_at: None }))
                }
            }
        }
    }
}

impl TrackedAlarm {
    fn is_cleared_for(&self, now: Timestamp, after: Duration) -> bool {
        self.cleared_at.is_some_and(|since| now.duration_since(since) >= after)
    }

    fn has_changed(&self, now: Timestamp) -> bool {
        let notified = self.last_notified.as_ref().filter(|_| self.cleared_at.is_none());
        notified.is_some_and(|(at, text)| {
            now.duration_since(*at) >= MIN_CHANGE_INTERVAL && *text != normalized_text(&self.alarm.text)
        })
    }

    fn take_update(&mut self, now: Timestamp, after: Duration, lasts: bool) -> Option<AlarmUpdate> {
        let transition = match (self.cleared_at, &self.last_notified) {
            (Some(since), Some(_)) if self.is_cleared_for(now, after) => Transition::Resolved(since),
            (Some(_), _) => return None,
            (None, None) => Transition::Raised,
            (None, Some(_)) if self.has_changed(now) => Transition::Changed,
            (None, Some(_)) if lasts => Transition::Ongoing,
            (None, Some(_)) => return None,
        };
        self.last_notified = Some((now, normalized_text(&self.alarm.text)));
        Some(AlarmUpdate { alarm: self.alarm.clone(), transition })
    }
}

/// Returns a text without its numbers, which may change at any time.
fn normalized_text(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// Minimum time between two notifications of an alarm because of a changed text.
const MIN_CHANGE_INTERVAL: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(60);
    const REPEAT_INTERVAL: Duration = Duration::from_secs(86_400);
    const START: u64 = 1_789_387_200;

    fn sample_alarm(subject: &str, text: &str, since: u64) -> Alarm {
        let (subject, text) = (subject.to_owned(), text.to_owned());
        Alarm { kind: AlarmKind::Quota, subject, text, since: timestamp_at(since) }
    }

    fn timestamp_at(second: u64) -> Timestamp {
        Timestamp::from_secs(START + second)
    }

    /// Returns the updates at that second: subject and transition.
    fn due_at(state: &mut NotificationState, on: &[Alarm], second: u64) -> Vec<(String, Transition)> {
        let items = state.due_updates(on.to_vec(), timestamp_at(second), DELAY, REPEAT_INTERVAL);
        items.into_iter().map(|item| (item.alarm.subject, item.transition)).collect()
    }

    fn single_update(subject: &str, news: Transition) -> Vec<(String, Transition)> {
        vec![(subject.to_owned(), news)]
    }

    #[test]
    fn notifies_once_when_raised_and_once_when_resolved() {
        let (mut state, on) = (NotificationState::default(), [sample_alarm("a", "80 % used", 0)]);
        assert_eq!(due_at(&mut state, &on, 59), []);
        assert_eq!(due_at(&mut state, &on, 60), single_update("a", Transition::Raised));
        let more = [sample_alarm("a", "85 % used", 0)];
        assert_eq!(due_at(&mut state, &more, 3600), [], "only a number differs");
        assert_eq!(due_at(&mut state, &[], 4000), []);
        assert_eq!(due_at(&mut state, &[], 4059), []);
        let items = state.due_updates(Vec::new(), timestamp_at(4060), DELAY, REPEAT_INTERVAL);
        assert_eq!(
            items,
            [AlarmUpdate {
                alarm: sample_alarm("a", "85 % used", 0),
                transition: Transition::Resolved(timestamp_at(4000))
            }]
        );
        assert_eq!(due_at(&mut state, &[], 9999), []);
    }

    #[test]
    fn treats_a_flapping_alarm_as_one() {
        let mut state = NotificationState::default();
        let mut updates = Vec::new();
        // On for 30 s, off for 30 s, for an hour.
        for second in (0..3600).step_by(10) {
            let on = [sample_alarm("a", "down", second / 60 * 60)];
            let on = if second % 60 < 30 { &on[..] } else { &[] };
            updates.extend(due_at(&mut state, on, second));
        }
        assert_eq!(updates, single_update("a", Transition::Raised));
        assert_eq!(
            due_at(&mut state, &[], 3700),
            single_update("a", Transition::Resolved(timestamp_at(3570)))
        );
        // A single short occurrence.
        assert_eq!(due_at(&mut state, &[sample_alarm("b", "down", 4000)], 4000), []);
        assert_eq!(due_at(&mut state, &[], 4010), []);
        assert_eq!(due_at(&mut state, &[], 4070), []);
        assert_eq!(due_at(&mut state, &[sample_alarm("b", "down", 4080)], 4080), [], "it starts again");
    }

    #[test]
    fn batches_simultaneous_alarms() {
        let mut state = NotificationState::default();
        let on = [sample_alarm("a", "down", 0), sample_alarm("b", "down", 59)];
        let both = [("a".to_owned(), Transition::Raised), ("b".to_owned(), Transition::Raised)];
        assert_eq!(due_at(&mut state, &on, 60), both);
        let third = [on[0].clone(), on[1].clone(), sample_alarm("c", "down", 70)];
        assert_eq!(due_at(&mut state, &third, 70), []);
        assert_eq!(due_at(&mut state, &third, 130), single_update("c", Transition::Raised));
    }

    #[test]
    fn notifies_changed_text_at_most_once_per_interval() {
        let mut state = NotificationState::default();
        let alarm_with = |text| [sample_alarm("a", text, 0)];
        assert_eq!(
            due_at(&mut state, &alarm_with("most is used"), 60),
            single_update("a", Transition::Raised)
        );
        assert_eq!(due_at(&mut state, &alarm_with("it is used up"), 61), []);
        assert_eq!(
            due_at(&mut state, &alarm_with("it is used up"), 660),
            single_update("a", Transition::Changed)
        );
        assert_eq!(due_at(&mut state, &alarm_with("most is used"), 1259), []);
        assert_eq!(due_at(&mut state, &alarm_with("it is used up"), 1260), [], "the text is as reported");
    }

    #[test]
    fn repeats_ongoing_alarms_together() {
        let mut state = NotificationState::default();
        let first = sample_alarm("a", "down", 0);
        assert_eq!(
            due_at(&mut state, std::slice::from_ref(&first), 60),
            single_update("a", Transition::Raised)
        );
        let on = [first, sample_alarm("b", "down", 3600)];
        assert_eq!(due_at(&mut state, &on, 3660), single_update("b", Transition::Raised));
        assert_eq!(due_at(&mut state, &on, 86_459), []);
        let both = [("a".to_owned(), Transition::Ongoing), ("b".to_owned(), Transition::Ongoing)];
        assert_eq!(due_at(&mut state, &on, 86_460), both);
        assert_eq!(due_at(&mut state, &on, 86_460 + 86_399), []);
        assert_eq!(due_at(&mut state, &on, 86_460 + 86_400), both);
    }
}
