//! One notification about alarms, as text for operators and as JSON for programs.

use crate::alarms::notification_state::{AlarmUpdate, Transition};
use crate::alarms::remedies::remedy;
use mailtrail_mail::{Timestamp, TrackingId};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// Notification about one or more alarms.
#[derive(Debug)]
pub(super) struct Notification {
    /// Id; all retries use the same one.
    pub id: TrackingId,
    pub created_at: Timestamp,
    pub updates: Vec<AlarmUpdate>,
}

#[derive(Serialize)]
struct NotificationPayload<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    text: String,
    data: PayloadData<'a>,
}

#[derive(Serialize)]
struct PayloadData<'a> {
    host: &'a str,
    alarms: Vec<AlarmPayload<'a>>,
}

#[derive(Serialize)]
struct AlarmPayload<'a> {
    alarm: &'static str,
    subject: &'a str,
    state: &'static str,
    text: &'a str,
    remedy: &'static str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl Notification {
    /// Returns the subject line.
    pub fn subject(&self, hostname: &str) -> String {
        let is_resolved = |item: &&AlarmUpdate| matches!(item.transition, Transition::Resolved(_));
        let resolved = self.updates.iter().filter(is_resolved).count();
        let what = match &self.updates[..] {
            [item] => format!("{}: {}", state_label(item.transition), alarm_label(item)),
            items if resolved == items.len() => format!("{resolved} alarms are over"),
            items if resolved == 0 => format!("{} alarms", items.len()),
            items => format!("{} on, {resolved} over", items.len() - resolved),
        };
        format!("[mailtrail {hostname}] {what}")
    }

    /// Returns the full text: per alarm the fault, its start and the remedy.
    pub fn to_text(&self, hostname: &str) -> String {
        let mut text = format!("mailtrail on {hostname}, {}\n", self.created_at);
        for item in &self.updates {
            // Writing to a String cannot fail.
            let _ =
                write!(text, "\n{}: {}\n", state_label(item.transition).to_uppercase(), alarm_label(item));
            let alarm = &item.alarm;
            let _ = match item.transition {
                Transition::Resolved(end) => {
                    let lasted = format_duration(end.duration_since(alarm.since));
                    writeln!(text, "Active from {} to {end} ({lasted}): {}.", alarm.since, alarm.text)
                }
                Transition::Raised | Transition::Changed | Transition::Ongoing => {
                    writeln!(text, "Since {}: {}.\nRemedy: {}.", alarm.since, alarm.text, remedy(alarm.kind))
                }
            };
        }
        text + "\n`mailtrail doctor` on that machine lists the active alarms; docs/operations.md has a section for each alarm.\n"
    }

    /// Returns one JSON object: `id`, `type`, `timestamp`, `text` as in the mail, and `data` with the host and its
    /// `alarms`.
    pub fn to_json(&self, hostname: &str) -> String {
        let message = NotificationPayload {
            id: self.webhook_id(),
            kind: "alarms",
            timestamp: self.created_at.to_string(),
            text: self.to_text(hostname),
            data: PayloadData {
                host: hostname,
                alarms: self.updates.iter().map(AlarmPayload::from_update).collect(),
            },
        };
        serde_json::to_string(&message).expect("texts always have a JSON form")
    }

    /// Returns the value of the `webhook-id` header.
    pub fn webhook_id(&self) -> String {
        format!("alarms-{}", self.id)
    }
}

impl<'a> AlarmPayload<'a> {
    fn from_update(item: &'a AlarmUpdate) -> Self {
        let until = match item.transition {
            Transition::Resolved(end) => Some(end.to_string()),
            Transition::Raised | Transition::Changed | Transition::Ongoing => None,
        };
        let alarm = &item.alarm;
        Self {
            alarm: alarm.kind.as_str(),
            subject: &alarm.subject,
            state: state_label(item.transition),
            text: &alarm.text,
            remedy: remedy(alarm.kind),
            since: alarm.since.to_string(),
            until,
        }
    }
}

fn alarm_label(item: &AlarmUpdate) -> String {
    format!("{} {}", item.alarm.kind.as_str(), item.alarm.subject)
}

fn state_label(news: Transition) -> &'static str {
    match news {
        Transition::Raised => "alarm",
        Transition::Changed => "changed",
        Transition::Ongoing => "still on",
        Transition::Resolved(_) => "over",
    }
}

/// Formats a duration in its two largest units.
fn format_duration(time: Duration) -> String {
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
    use crate::alarms::registry::{Alarm, AlarmKind};

    #[test]
    fn notification_states_cause_start_and_duration() {
        let at = |seconds: u64| Timestamp::from_secs(1_789_387_200 + seconds);
        let alarm = |kind, subject: &str, text: &str| Alarm {
            kind,
            subject: subject.into(),
            text: text.into(),
            since: at(0),
        };
        let updates = vec![
            AlarmUpdate {
                alarm: alarm(AlarmKind::Breaker, "mailgun", "mail waits"),
                transition: Transition::Raised,
            },
            AlarmUpdate {
                alarm: alarm(AlarmKind::DiskSpace, "data_dir", "nearly full"),
                transition: Transition::Resolved(at(5400)),
            },
        ];
        let notification = Notification { id: TrackingId::new(at(5460), 1), created_at: at(5460), updates };
        assert_eq!(notification.subject("relay.example.com"), "[mailtrail relay.example.com] 1 on, 1 over");
        let text = notification.to_text("relay.example.com");
        for line in [
            "mailtrail on relay.example.com, 2026-09-14T13:31:00.000Z",
            "ALARM: breaker mailgun",
            "Since 2026-09-14T12:00:00.000Z: mail waits.",
            "OVER: disk data_dir",
            "Active from 2026-09-14T12:00:00.000Z to 2026-09-14T13:30:00.000Z (1 h 30 min): nearly full.",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let json: serde_json::Value =
            serde_json::from_str(&notification.to_json("relay.example.com")).unwrap();
        assert_eq!((&json["type"], &json["text"]), (&"alarms".into(), &text.into()));
        let [breaker, disk] = &json["data"]["alarms"].as_array().unwrap()[..] else { panic!("{json}") };
        assert_eq!((&breaker["state"], breaker.get("until")), (&"alarm".into(), None));
        assert_eq!((&disk["state"], &disk["until"]), (&"over".into(), &"2026-09-14T13:30:00.000Z".into()));
    }

    #[test]
    fn formats_durations_in_two_units() {
        let texts =
            [59, 60, 3599, 3600, 86_399, 90_000].map(|seconds| format_duration(Duration::from_secs(seconds)));
        assert_eq!(texts, ["59 s", "1 min", "59 min", "1 h 0 min", "23 h 59 min", "1 d 1 h"]);
    }
}
