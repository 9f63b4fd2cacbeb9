//! What was told of which alarm, and what is to be told now: pure rules over what is on.

use crate::alarms::registry::{Alarm, Kind};
use mailtrail_mail::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of the alarms since the process began.
#[derive(Debug, Default)]
pub(super) struct Board(BTreeMap<(Kind, String), Known>);

/// What is told of an alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// As it is, or was when it was seen last; `since` is when it began, gaps left out of account.
    pub alarm: Alarm,
    /// What is new about it.
    pub news: News,
}

/// What is new about an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is on.
    On,
    /// It says something else now.
    Changed,
    /// It is still on.
    Lasting,
    /// It has been over since then.
    Over(Timestamp),
}

#[derive(Debug)]
struct Known {
    alarm: Alarm,
    /// When it was told of last, and the gist of what was said.
    told: Option<(Timestamp, String)>,
    /// Since when it is not on.
    gone: Option<Timestamp>,
}

impl Board {
    /// What is to be told, of `on`, the alarms that are on. One that begins is told when it has been on for `after`, and
    /// its end when it has been off for as long: what comes and goes is one alarm. Whenever something is told, so is all
    /// else that is on and was not. What lasts is told again after `repeat`, all of it at once.
    pub fn look(&mut self, on: Vec<Alarm>, now: Timestamp, after: Duration, repeat: Duration) -> Vec<Item> {
        self.note(on, now);
        self.0.retain(|_, known| known.told.is_some() || !known.has_been_gone(now, after));
        let (mut due, mut lasts) = (false, false);
        for known in self.0.values() {
            match &known.told {
                None => due |= known.gone.is_none() && now.duration_since(known.alarm.since) >= after,
                Some((told, _)) => {
                    due |= known.has_been_gone(now, after) || known.has_changed(now);
                    lasts |= known.gone.is_none() && now.duration_since(*told) >= repeat;
                }
            }
        }
        if !due && !lasts {
            return Vec::new();
        }
        let items = self.0.values_mut().filter_map(|known| known.tell(now, after, lasts)).collect();
        self.0.retain(|_, known| !known.has_been_gone(now, after));
        items
    }

    fn note(&mut self, on: Vec<Alarm>, now: Timestamp) {
        for known in self.0.values_mut() {
            known.gone = known.gone.or(Some(now));
        }
        for alarm in on {
            let key = (alarm.kind, alarm.subject.clone());
            match self.0.get_mut(&key) {
                Some(known) => {
                    known.gone = None;
                    known.alarm.text = alarm.text;
                }
                None => drop(self.0.insert(key, Known { alarm, told: None, gone: None })),
            }
        }
    }
}

impl Known {
    fn has_been_gone(&self, now: Timestamp, after: Duration) -> bool {
        self.gone.is_some_and(|gone| now.duration_since(gone) >= after)
    }

    fn has_changed(&self, now: Timestamp) -> bool {
        let told = self.told.as_ref().filter(|_| self.gone.is_none());
        told.is_some_and(|(at, said)| {
            now.duration_since(*at) >= BETWEEN_CHANGES && *said != gist(&self.alarm.text)
        })
    }

    fn tell(&mut self, now: Timestamp, after: Duration, lasts: bool) -> Option<Item> {
        let news = match (self.gone, &self.told) {
            (Some(gone), Some(_)) if self.has_been_gone(now, after) => News::Over(gone),
            (Some(_), _) => return None,
            (None, None) => News::On,
            (None, Some(_)) if self.has_changed(now) => News::Changed,
            (None, Some(_)) if lasts => News::Lasting,
            (None, Some(_)) => return None,
        };
        self.told = Some((now, gist(&self.alarm.text)));
        Some(Item { alarm: self.alarm.clone(), news })
    }
}

/// A text without its figures, which may change all the time.
fn gist(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// Whatever an alarm says, it is not told so often because of other words alone.
const BETWEEN_CHANGES: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(60);
    const REPEAT: Duration = Duration::from_secs(86_400);
    const START: u64 = 1_789_387_200;

    fn alarm(subject: &str, text: &str, since: u64) -> Alarm {
        let (subject, text) = (subject.to_owned(), text.to_owned());
        Alarm { kind: Kind::Quota, subject, text, since: at(since) }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_secs(START + second)
    }

    /// What is told at that second: subjects with what is new.
    fn told(board: &mut Board, on: &[Alarm], second: u64) -> Vec<(String, News)> {
        let items = board.look(on.to_vec(), at(second), AFTER, REPEAT);
        items.into_iter().map(|item| (item.alarm.subject, item.news)).collect()
    }

    fn one(subject: &str, news: News) -> Vec<(String, News)> {
        vec![(subject.to_owned(), news)]
    }

    #[test]
    fn an_alarm_is_told_once_and_so_is_its_end() {
        let (mut board, on) = (Board::default(), [alarm("a", "80 % used", 0)]);
        assert_eq!(told(&mut board, &on, 59), []);
        assert_eq!(told(&mut board, &on, 60), one("a", News::On));
        let more = [alarm("a", "85 % used", 0)];
        assert_eq!(told(&mut board, &more, 3600), [], "only a figure is another");
        assert_eq!(told(&mut board, &[], 4000), []);
        assert_eq!(told(&mut board, &[], 4059), []);
        let items = board.look(Vec::new(), at(4060), AFTER, REPEAT);
        assert_eq!(items, [Item { alarm: alarm("a", "85 % used", 0), news: News::Over(at(4000)) }]);
        assert_eq!(told(&mut board, &[], 9999), []);
    }

    #[test]
    fn what_comes_and_goes_is_one_alarm() {
        let mut board = Board::default();
        let mut heard = Vec::new();
        // On for 30 s, off for 30 s, for an hour.
        for second in (0..3600).step_by(10) {
            let on = [alarm("a", "down", second / 60 * 60)];
            let on = if second % 60 < 30 { &on[..] } else { &[] };
            heard.extend(told(&mut board, on, second));
        }
        assert_eq!(heard, one("a", News::On));
        assert_eq!(told(&mut board, &[], 3700), one("a", News::Over(at(3570))));
        // Once, and too short.
        assert_eq!(told(&mut board, &[alarm("b", "down", 4000)], 4000), []);
        assert_eq!(told(&mut board, &[], 4010), []);
        assert_eq!(told(&mut board, &[], 4070), []);
        assert_eq!(told(&mut board, &[alarm("b", "down", 4080)], 4080), [], "it begins anew");
    }

    #[test]
    fn several_at_once_are_told_together() {
        let mut board = Board::default();
        let on = [alarm("a", "down", 0), alarm("b", "down", 59)];
        let both = [("a".to_owned(), News::On), ("b".to_owned(), News::On)];
        assert_eq!(told(&mut board, &on, 60), both);
        let third = [on[0].clone(), on[1].clone(), alarm("c", "down", 70)];
        assert_eq!(told(&mut board, &third, 70), []);
        assert_eq!(told(&mut board, &third, 130), one("c", News::On));
    }

    #[test]
    fn other_words_are_told_again_and_not_too_often() {
        let mut board = Board::default();
        let says = |text| [alarm("a", text, 0)];
        assert_eq!(told(&mut board, &says("most is used"), 60), one("a", News::On));
        assert_eq!(told(&mut board, &says("it is used up"), 61), []);
        assert_eq!(told(&mut board, &says("it is used up"), 660), one("a", News::Changed));
        assert_eq!(told(&mut board, &says("most is used"), 1259), []);
        assert_eq!(told(&mut board, &says("it is used up"), 1260), [], "it says what it said");
    }

    #[test]
    fn what_lasts_is_told_again_all_at_once() {
        let mut board = Board::default();
        let first = alarm("a", "down", 0);
        assert_eq!(told(&mut board, std::slice::from_ref(&first), 60), one("a", News::On));
        let on = [first, alarm("b", "down", 3600)];
        assert_eq!(told(&mut board, &on, 3660), one("b", News::On));
        assert_eq!(told(&mut board, &on, 86_459), []);
        let both = [("a".to_owned(), News::Lasting), ("b".to_owned(), News::Lasting)];
        assert_eq!(told(&mut board, &on, 86_460), both);
        assert_eq!(told(&mut board, &on, 86_460 + 86_399), []);
        assert_eq!(told(&mut board, &on, 86_460 + 86_400), both);
    }
}
