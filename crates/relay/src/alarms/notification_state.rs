//! What was told of which alarm, and what is to be told now: pure rules over what is on.

use crate::alarms::registry::{Alarm, AlarmKind};
use mailtrail_mail::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of the alarms since the process began.
#[derive(Debug, Default)]
pub(super) struct NotificationState(BTreeMap<(AlarmKind, String), TrackedAlarm>);

/// What is told of an alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AlarmUpdate {
    /// As it is, or was when it was seen last; `since` is when it began, gaps left out of account.
    pub alarm: Alarm,
    /// What is new about it.
    pub transition: Transition,
}

/// What is new about an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// It is on.
    Raised,
    /// It says something else now.
    Changed,
    /// It is still on.
    Ongoing,
    /// It has been over since then.
    Resolved(Timestamp),
}

#[derive(Debug)]
struct TrackedAlarm {
    alarm: Alarm,
    /// When it was told of last, and the gist of what was said.
    last_notified: Option<(Timestamp, String)>,
    /// Since when it is not on.
    cleared_at: Option<Timestamp>,
}

impl NotificationState {
    /// What is to be told, of `on`, the alarms that are on. One that begins is told when it has been on for `after`, and
    /// its end when it has been off for as long: what comes and goes is one alarm. Whenever something is told, so is all
    /// else that is on and was not. What lasts is told again after `repeat`, all of it at once.
    pub fn due_updates(
        &mut self,
        on: Vec<Alarm>,
        now: Timestamp,
        after: Duration,
        repeat: Duration,
    ) -> Vec<AlarmUpdate> {
        self.track_active(on, now);
        self.0.retain(|_, known| known.last_notified.is_some() || !known.is_cleared_for(now, after));
        let (mut due, mut lasts) = (false, false);
        for known in self.0.values() {
            match &known.last_notified {
                None => due |= known.cleared_at.is_none() && now.duration_since(known.alarm.since) >= after,
                Some((told, _)) => {
                    due |= known.is_cleared_for(now, after) || known.has_changed(now);
                    lasts |= known.cleared_at.is_none() && now.duration_since(*told) >= repeat;
                }
            }
        }
        if !due && !lasts {
            return Vec::new();
        }
        let items = self.0.values_mut().filter_map(|known| known.take_update(now, after, lasts)).collect();
        self.0.retain(|_, known| !known.is_cleared_for(now, after));
        items
    }

    fn track_active(&mut self, on: Vec<Alarm>, now: Timestamp) {
        for known in self.0.values_mut() {
            known.cleared_at = known.cleared_at.or(Some(now));
        }
        for alarm in on {
            let key = (alarm.kind, alarm.subject.clone());
            match self.0.get_mut(&key) {
                Some(known) => {
                    known.cleared_at = None;
                    known.alarm.text = alarm.text;
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
        self.cleared_at.is_some_and(|gone| now.duration_since(gone) >= after)
    }

    fn has_changed(&self, now: Timestamp) -> bool {
        let told = self.last_notified.as_ref().filter(|_| self.cleared_at.is_none());
        told.is_some_and(|(at, said)| {
            now.duration_since(*at) >= MIN_CHANGE_INTERVAL && *said != normalized_text(&self.alarm.text)
        })
    }

    fn take_update(&mut self, now: Timestamp, after: Duration, lasts: bool) -> Option<AlarmUpdate> {
        let transition = match (self.cleared_at, &self.last_notified) {
            (Some(gone), Some(_)) if self.is_cleared_for(now, after) => Transition::Resolved(gone),
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

/// A text without its figures, which may change all the time.
fn normalized_text(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// Whatever an alarm says, it is not told so often because of other words alone.
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

    /// What is told at that second: subjects with what is new.
    fn due_at(board: &mut NotificationState, on: &[Alarm], second: u64) -> Vec<(String, Transition)> {
        let items = board.due_updates(on.to_vec(), timestamp_at(second), DELAY, REPEAT_INTERVAL);
        items.into_iter().map(|item| (item.alarm.subject, item.transition)).collect()
    }

    fn single_update(subject: &str, news: Transition) -> Vec<(String, Transition)> {
        vec![(subject.to_owned(), news)]
    }

    #[test]
    fn notifies_once_when_raised_and_once_when_resolved() {
        let (mut board, on) = (NotificationState::default(), [sample_alarm("a", "80 % used", 0)]);
        assert_eq!(due_at(&mut board, &on, 59), []);
        assert_eq!(due_at(&mut board, &on, 60), single_update("a", Transition::Raised));
        let more = [sample_alarm("a", "85 % used", 0)];
        assert_eq!(due_at(&mut board, &more, 3600), [], "only a figure is another");
        assert_eq!(due_at(&mut board, &[], 4000), []);
        assert_eq!(due_at(&mut board, &[], 4059), []);
        let items = board.due_updates(Vec::new(), timestamp_at(4060), DELAY, REPEAT_INTERVAL);
        assert_eq!(
            items,
            [AlarmUpdate {
                alarm: sample_alarm("a", "85 % used", 0),
                transition: Transition::Resolved(timestamp_at(4000))
            }]
        );
        assert_eq!(due_at(&mut board, &[], 9999), []);
    }

    #[test]
    fn treats_a_flapping_alarm_as_one() {
        let mut board = NotificationState::default();
        let mut heard = Vec::new();
        // On for 30 s, off for 30 s, for an hour.
        for second in (0..3600).step_by(10) {
            let on = [sample_alarm("a", "down", second / 60 * 60)];
            let on = if second % 60 < 30 { &on[..] } else { &[] };
            heard.extend(due_at(&mut board, on, second));
        }
        assert_eq!(heard, single_update("a", Transition::Raised));
        assert_eq!(
            due_at(&mut board, &[], 3700),
            single_update("a", Transition::Resolved(timestamp_at(3570)))
        );
        // Once, and too short.
        assert_eq!(due_at(&mut board, &[sample_alarm("b", "down", 4000)], 4000), []);
        assert_eq!(due_at(&mut board, &[], 4010), []);
        assert_eq!(due_at(&mut board, &[], 4070), []);
        assert_eq!(due_at(&mut board, &[sample_alarm("b", "down", 4080)], 4080), [], "it begins anew");
    }

    #[test]
    fn batches_simultaneous_alarms() {
        let mut board = NotificationState::default();
        let on = [sample_alarm("a", "down", 0), sample_alarm("b", "down", 59)];
        let both = [("a".to_owned(), Transition::Raised), ("b".to_owned(), Transition::Raised)];
        assert_eq!(due_at(&mut board, &on, 60), both);
        let third = [on[0].clone(), on[1].clone(), sample_alarm("c", "down", 70)];
        assert_eq!(due_at(&mut board, &third, 70), []);
        assert_eq!(due_at(&mut board, &third, 130), single_update("c", Transition::Raised));
    }

    #[test]
    fn notifies_changed_text_at_most_once_per_interval() {
        let mut board = NotificationState::default();
        let says = |text| [sample_alarm("a", text, 0)];
        assert_eq!(due_at(&mut board, &says("most is used"), 60), single_update("a", Transition::Raised));
        assert_eq!(due_at(&mut board, &says("it is used up"), 61), []);
        assert_eq!(due_at(&mut board, &says("it is used up"), 660), single_update("a", Transition::Changed));
        assert_eq!(due_at(&mut board, &says("most is used"), 1259), []);
        assert_eq!(due_at(&mut board, &says("it is used up"), 1260), [], "it says what it said");
    }

    #[test]
    fn repeats_ongoing_alarms_together() {
        let mut board = NotificationState::default();
        let first = sample_alarm("a", "down", 0);
        assert_eq!(
            due_at(&mut board, std::slice::from_ref(&first), 60),
            single_update("a", Transition::Raised)
        );
        let on = [first, sample_alarm("b", "down", 3600)];
        assert_eq!(due_at(&mut board, &on, 3660), single_update("b", Transition::Raised));
        assert_eq!(due_at(&mut board, &on, 86_459), []);
        let both = [("a".to_owned(), Transition::Ongoing), ("b".to_owned(), Transition::Ongoing)];
        assert_eq!(due_at(&mut board, &on, 86_460), both);
        assert_eq!(due_at(&mut board, &on, 86_460 + 86_399), []);
        assert_eq!(due_at(&mut board, &on, 86_460 + 86_400), both);
    }
}
