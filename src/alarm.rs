//! What an operator should know about now: raised once, said once, and over when it is over.

use crate::clock::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The alarms of a process.
#[derive(Clone, Debug)]
pub struct Alarms {
    clock: Clock,
    raised: Arc<Mutex<BTreeMap<(Kind, String), Alarm>>>,
}

/// One alarm that is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What kind of trouble.
    pub kind: Kind,
    /// With what: an upstream's name, mostly.
    pub subject: String,
    /// What is known, and what to do.
    pub text: String,
    /// Since when.
    pub since: Timestamp,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An upstream is left alone.
    Breaker,
    /// An upstream refuses the account, or its login.
    Account,
    /// An upstream's TLS is missing or cannot be trusted.
    Tls,
    /// A plan's quota is nearly, or entirely, used.
    Quota,
    /// Mail is past its deadline, or nobody works on it.
    Overdue,
    /// The ledger's rows do not fit together.
    Ledger,
    /// The test mail's events stay out.
    Heartbeat,
    /// Mail goes out and no event comes back.
    Silence,
    /// No report's signature fits.
    Signature,
    /// The provider's clock and ours differ.
    Clock,
    /// Much mail waits.
    Backlog,
    /// Mail waits long for its upstream.
    Slow,
    /// Too many hard bounces.
    Bounces,
    /// Too many complaints.
    Complaints,
    /// Too few deliveries.
    Deliveries,
    /// A sink takes nothing.
    Sink,
    /// A target takes no mail from outside.
    Inbound,
}

impl Kind {
    /// The word for logs, metrics and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::Account => "account",
            Self::Tls => "tls",
            Self::Quota => "quota",
            Self::Overdue => "overdue",
            Self::Ledger => "ledger",
            Self::Heartbeat => "heartbeat",
            Self::Silence => "silence",
            Self::Signature => "signature",
            Self::Clock => "clock",
            Self::Backlog => "backlog",
            Self::Slow => "slow",
            Self::Bounces => "bounces",
            Self::Complaints => "complaints",
            Self::Deliveries => "deliveries",
            Self::Sink => "sink",
            Self::Inbound => "inbound",
        }
    }
}

impl Alarms {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, raised: Arc::default() }
    }

    /// Raises an alarm; one that is on already is not said again, unless its text changed.
    pub fn raise(&self, kind: Kind, subject: &str, text: impl Into<String>) {
        self.put(kind, subject, text.into(), true);
    }

    /// Raises an alarm, or clears it where there is nothing to say. One that is on already is not said again: its figures
    /// may change all the time.
    pub fn set(&self, kind: Kind, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.put(kind, subject, text, false),
            None => self.clear(kind, subject),
        }
    }

    fn put(&self, kind: Kind, subject: &str, text: String, say_changes: bool) {
        let mut raised = self.raised();
        let alarm = raised.entry((kind, subject.to_owned())).or_insert_with(|| Alarm {
            kind,
            subject: subject.to_owned(),
            text: String::new(),
            since: self.clock.now(),
        });
        let said = !alarm.text.is_empty() && !say_changes;
        if alarm.text == text {
            return;
        }
        alarm.text.clone_from(&text);
        if said {
            return;
        }
        drop(raised);
        tracing::error!(alarm = kind.word(), subject, "{text}");
        gauge(kind, subject, 1.0);
    }

    /// Ends an alarm, if it is on.
    pub fn clear(&self, kind: Kind, subject: &str) {
        if self.raised().remove(&(kind, subject.to_owned())).is_some() {
            tracing::info!(alarm = kind.word(), subject, "the alarm is over");
            gauge(kind, subject, 0.0);
        }
    }

    /// Those that are on.
    pub fn list(&self) -> Vec<Alarm> {
        self.raised().values().cloned().collect()
    }

    fn raised(&self) -> MutexGuard<'_, BTreeMap<(Kind, String), Alarm>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gauge(kind: Kind, subject: &str, value: f64) {
    metrics::gauge!("mailtrail_alarm", "alarm" => kind.word(), "subject" => subject.to_owned()).set(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_on_until_it_is_cleared() {
        let alarms = Alarms::new(Clock::System);
        alarms.raise(Kind::Quota, "mailgun", "80 % used");
        alarms.raise(Kind::Quota, "mailgun", "95 % used");
        alarms.raise(Kind::Breaker, "mailgun", "open");
        alarms.clear(Kind::Breaker, "brevo");
        let texts: Vec<_> = alarms.list().into_iter().map(|alarm| alarm.text).collect();
        assert_eq!(texts, ["open", "95 % used"]);
        alarms.clear(Kind::Breaker, "mailgun");
        assert_eq!(alarms.list().len(), 1);
    }
}
