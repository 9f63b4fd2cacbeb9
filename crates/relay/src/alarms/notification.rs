//! What is told at a time: as a text for people, as JSON for programs.

use crate::alarms::notification_state::{Item, News};
use crate::alarms::remedies::advice;
use mailtrail_mail::{Timestamp, TrackingId};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// What is told of some alarms; at least one.
#[derive(Debug)]
pub(super) struct Bulletin {
    /// Which: the same however often it is tried.
    pub id: TrackingId,
    /// When it was made.
    pub at: Timestamp,
    /// What it says.
    pub items: Vec<Item>,
}

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    text: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    host: &'a str,
    alarms: Vec<AlarmNews<'a>>,
}

#[derive(Serialize)]
struct AlarmNews<'a> {
    alarm: &'static str,
    subject: &'a str,
    state: &'static str,
    text: &'a str,
    remedy: &'static str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl Bulletin {
    /// In a few words.
    pub fn subject(&self, hostname: &str) -> String {
        let over = |item: &&Item| matches!(item.news, News::Over(_));
        let ended = self.items.iter().filter(over).count();
        let what = match &self.items[..] {
            [item] => format!("{}: {}", state(item.news), name(item)),
            items if ended == items.len() => format!("{ended} alarms are over"),
            items if ended == 0 => format!("{} alarms", items.len()),
            items => format!("{} on, {ended} over", items.len() - ended),
        };
        format!("[mailtrail {hostname}] {what}")
    }

    /// In full: what is wrong, since when, why, and what to do.
    pub fn text(&self, hostname: &str) -> String {
        let mut text = format!("mailtrail on {hostname}, {}\n", self.at);
        for item in &self.items {
            // A String takes everything.
            let _ = write!(text, "\n{}: {}\n", state(item.news).to_uppercase(), name(item));
            let alarm = &item.alarm;
            let _ = match item.news {
                News::Over(end) => {
                    let lasted = lasted(end.duration_since(alarm.since));
                    writeln!(
                        text,
                        "It was on from {} to {end}, {lasted}. It said: {}.",
                        alarm.since, alarm.text
                    )
                }
                News::On | News::Changed | News::Lasting => {
                    writeln!(
                        text,
                        "Since {}: {}.\nWhat to do: {}.",
                        alarm.since,
                        alarm.text,
                        advice(alarm.kind)
                    )
                }
            };
        }
        text + "\n`mailtrail doctor` on that machine tells what is wrong now; docs/operations.md has a section for each alarm.\n"
    }

    /// One JSON object: `id`, `type`, `timestamp`, `text` as above, and `data` with the host and its `alarms`.
    pub fn json(&self, hostname: &str) -> String {
        let message = Message {
            id: self.name(),
            kind: "alarms",
            timestamp: self.at.to_string(),
            text: self.text(hostname),
            data: Data { host: hostname, alarms: self.items.iter().map(AlarmNews::of).collect() },
        };
        serde_json::to_string(&message).expect("texts always have a JSON form")
    }

    /// Its `webhook-id`.
    pub fn name(&self) -> String {
        format!("alarms-{}", self.id)
    }
}

impl<'a> AlarmNews<'a> {
    fn of(item: &'a Item) -> Self {
        let until = match item.news {
            News::Over(end) => Some(end.to_string()),
            News::On | News::Changed | News::Lasting => None,
        };
        let alarm = &item.alarm;
        Self {
            alarm: alarm.kind.word(),
            subject: &alarm.subject,
            state: state(item.news),
            text: &alarm.text,
            remedy: advice(alarm.kind),
            since: alarm.since.to_string(),
            until,
        }
    }
}

fn name(item: &Item) -> String {
    format!("{} {}", item.alarm.kind.word(), item.alarm.subject)
}

fn state(news: News) -> &'static str {
    match news {
        News::On => "alarm",
        News::Changed => "changed",
        News::Lasting => "still on",
        News::Over(_) => "over",
    }
}

/// In the two largest units.
fn lasted(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs()) {
        (0, seconds) => format!("{seconds} s"),
        (minutes @ 1..60, _) => format!("{minutes} min"),
        (minutes @ 60..1440, _) => format!("{} h {} min", minutes / 60, minutes % 60),
        (minutes, _) => format!("{} d {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::registry::{Alarm, Kind};

    #[test]
    fn a_bulletin_says_what_since_when_and_how_long() {
        let at = |seconds: u64| Timestamp::from_secs(1_789_387_200 + seconds);
        let alarm = |kind, subject: &str, text: &str| Alarm {
            kind,
            subject: subject.into(),
            text: text.into(),
            since: at(0),
        };
        let items = vec![
            Item { alarm: alarm(Kind::Breaker, "mailgun", "mail waits"), news: News::On },
            Item { alarm: alarm(Kind::Disk, "data_dir", "nearly full"), news: News::Over(at(5400)) },
        ];
        let bulletin = Bulletin { id: TrackingId::new(at(5460), 1), at: at(5460), items };
        assert_eq!(bulletin.subject("relay.example.com"), "[mailtrail relay.example.com] 1 on, 1 over");
        let text = bulletin.text("relay.example.com");
        for line in [
            "mailtrail on relay.example.com, 2026-09-14T13:31:00.000Z",
            "ALARM: breaker mailgun",
            "Since 2026-09-14T12:00:00.000Z: mail waits.",
            "OVER: disk data_dir",
            "It was on from 2026-09-14T12:00:00.000Z to 2026-09-14T13:30:00.000Z, 1 h 30 min. It said: nearly full.",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&bulletin.json("relay.example.com")).unwrap();
        assert_eq!((&json["type"], &json["text"]), (&"alarms".into(), &text.into()));
        let [breaker, disk] = &json["data"]["alarms"].as_array().unwrap()[..] else { panic!("{json}") };
        assert_eq!((&breaker["state"], breaker.get("until")), (&"alarm".into(), None));
        assert_eq!((&disk["state"], &disk["until"]), (&"over".into(), &"2026-09-14T13:30:00.000Z".into()));
    }

    #[test]
    fn times_are_said_shortly() {
        let said = [59, 60, 3599, 3600, 86_399, 90_000].map(|seconds| lasted(Duration::from_secs(seconds)));
        assert_eq!(said, ["59 s", "1 min", "59 min", "1 h 0 min", "23 h 59 min", "1 d 1 h"]);
    }
}
