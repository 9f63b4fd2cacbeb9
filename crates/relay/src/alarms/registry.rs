//! What an operator should know about now: raised once, said once, and over when it is over. Whoever is told of it is
//! the herald's business.

use mailtrail_mail::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The alarms of a process.
#[derive(Clone, Debug)]
pub struct Alarms {
    clock: Clock,
    raised: Arc<Mutex<BTreeMap<(Kind, String), Raised>>>,
}

#[derive(Debug)]
struct Raised {
    alarm: Alarm,
    /// The time passed at which it is over by itself.
    until: Option<Duration>,
    /// How often it was counted.
    count: u64,
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
    /// The provider's clock and ours differ, or ours jumped.
    Clock,
    /// Much mail waits.
    Backlog,
    /// Mail waits long for its upstream.
    Slow,
    /// An upstream's answers are long in coming.
    Stuck,
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
    /// The disk is nearly full.
    Disk,
    /// A certificate ends soon, or has ended.
    Certificate,
    /// The journal cannot be written, or a sync of it failed.
    Journal,
    /// Something was put aside that nobody took or understood.
    Dead,
    /// A provider's suppression lists cannot be brought together with ours.
    Sync,
    /// A provider cannot be asked for its events.
    Polls,
    /// There is hardly a file descriptor left, or none.
    Descriptors,
    /// A listener's address cannot be listened on.
    Listener,
    /// Transactional mail was not sent because of the suppression list.
    Withheld,
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
            Self::Stuck => "stuck",
            Self::Bounces => "bounces",
            Self::Complaints => "complaints",
            Self::Deliveries => "deliveries",
            Self::Sink => "sink",
            Self::Inbound => "inbound",
            Self::Disk => "disk",
            Self::Certificate => "certificate",
            Self::Journal => "journal",
            Self::Dead => "dead",
            Self::Sync => "sync",
            Self::Polls => "polls",
            Self::Descriptors => "descriptors",
            Self::Listener => "listener",
            Self::Withheld => "withheld",
        }
    }
}

impl Alarm {
    /// The upstream that it is about, if it is about one.
    pub fn upstream(&self) -> Option<&str> {
        match self.kind {
            Kind::Clock if self.subject == MACHINE => None,
            Kind::Breaker
            | Kind::Account
            | Kind::Tls
            | Kind::Quota
            | Kind::Silence
            | Kind::Signature
            | Kind::Clock
            | Kind::Slow
            | Kind::Stuck
            | Kind::Sync
            | Kind::Polls
            | Kind::Withheld => Some(&self.subject),
            Kind::Overdue
            | Kind::Ledger
            | Kind::Heartbeat
            | Kind::Backlog
            | Kind::Bounces
            | Kind::Complaints
            | Kind::Deliveries
            | Kind::Sink
            | Kind::Inbound
            | Kind::Disk
            | Kind::Certificate
            | Kind::Journal
            | Kind::Dead
            | Kind::Descriptors
            | Kind::Listener => None,
        }
    }
}

/// The subject of an alarm about this machine's clock; those of others are upstreams.
pub const MACHINE: &str = "machine";

impl Alarms {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, raised: Arc::default() }
    }

    /// Raises an alarm; one that is on already is not said again, unless its text changed.
    pub fn raise(&self, kind: Kind, subject: &str, text: impl Into<String>) {
        self.put(kind, subject, text.into(), true, None);
    }

    /// Raises an alarm, or clears it where there is nothing to say. One that is on already is not said again: its figures
    /// may change all the time.
    pub fn set(&self, kind: Kind, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.put(kind, subject, text, false, None),
            None => self.clear(kind, subject),
        }
    }

    /// Raises an alarm about something that happened once; it is over when nothing of the kind has happened for `lasts`,
    /// at the next [`Self::expire`].
    pub fn note(&self, kind: Kind, subject: &str, text: &str, lasts: Duration) {
        self.put(kind, subject, text.to_owned(), false, Some(self.clock.monotonic() + lasts));
    }

    /// Counts something that happened; the alarm is over when nothing of the kind has happened for `lasts`, at the next
    /// [`Self::expire`], and says how often it has happened since it began.
    pub fn count(
        &self,
        kind: Kind,
        subject: &str,
        more: u64,
        text: impl FnOnce(u64) -> String,
        lasts: Duration,
    ) {
        let known = self.raised().get(&(kind, subject.to_owned())).map_or(0, |raised| raised.count);
        let count = known + more;
        self.note(kind, subject, &text(count), lasts);
        if let Some(raised) = self.raised().get_mut(&(kind, subject.to_owned())) {
            raised.count = count;
        }
    }

    /// Ends what is over by itself.
    pub fn expire(&self) {
        let passed = self.clock.monotonic();
        self.clear_where(|raised| raised.until.is_some_and(|until| until <= passed));
    }

    /// Ends the alarms of a kind whose subjects `is_there` does not know: nobody else would.
    pub fn retain(&self, kind: Kind, is_there: impl Fn(&str) -> bool) {
        self.clear_where(|raised| raised.alarm.kind == kind && !is_there(&raised.alarm.subject));
    }

    fn clear_where(&self, which: impl Fn(&Raised) -> bool) {
        let found = |raised: &BTreeMap<(Kind, String), Raised>| {
            let found = raised.iter().filter(|(_, raised)| which(raised));
            found.map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        let found = found(&self.raised());
        for (kind, subject) in found {
            self.clear(kind, &subject);
        }
    }

    fn put(&self, kind: Kind, subject: &str, text: String, say_changes: bool, until: Option<Duration>) {
        let mut raised = self.raised();
        let raise = || Raised {
            alarm: Alarm { kind, subject: subject.to_owned(), text: String::new(), since: self.clock.now() },
            until,
            count: 0,
        };
        let entry = raised.entry((kind, subject.to_owned())).or_insert_with(raise);
        entry.until = until;
        let alarm = &mut entry.alarm;
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
        self.raised().values().map(|raised| raised.alarm.clone()).collect()
    }

    fn raised(&self) -> MutexGuard<'_, BTreeMap<(Kind, String), Raised>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gauge(kind: Kind, subject: &str, value: f64) {
    metrics::gauge!("mailtrail_alarm", "alarm" => kind.word(), "subject" => subject.to_owned()).set(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::ManualClock;

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

    #[test]
    fn what_happens_again_is_counted_until_it_is_over() {
        let moment = Box::leak(Box::<ManualClock>::default());
        let alarms = Alarms::new(Clock::Manual(moment));
        let count = |more| {
            alarms.count(Kind::Withheld, "up", more, |count| format!("{count} mails"), Duration::from_secs(9))
        };
        let text = || alarms.list().pop().map(|alarm| alarm.text);
        count(1);
        count(2);
        assert_eq!(text().as_deref(), Some("3 mails"));
        moment.advance_to(Timestamp::from_secs(9));
        alarms.expire();
        assert_eq!(text(), None);
        count(1);
        assert_eq!(text().as_deref(), Some("1 mails"));
    }

    #[test]
    fn what_happened_once_is_over_by_itself() {
        let moment: &ManualClock = Box::leak(Box::default());
        let (alarms, hour) = (Alarms::new(Clock::Manual(moment)), Duration::from_secs(3600));
        let at = |hours: u64| moment.advance_to(Timestamp::from_secs(hours * 3600));
        at(1);
        alarms.note(Kind::Dead, "events", "one", hour * 24);
        alarms.raise(Kind::Quota, "mailgun", "80 % used");
        at(20);
        alarms.note(Kind::Dead, "events", "another", hour * 24);
        for (hours, left) in [(43, 2), (44, 1), (99, 1)] {
            at(hours);
            alarms.expire();
            assert_eq!(alarms.list().len(), left, "{hours}");
        }
        alarms.retain(Kind::Breaker, |_| false);
        alarms.retain(Kind::Quota, |name| name == "mailgun");
        assert_eq!(alarms.list().len(), 1);
        alarms.retain(Kind::Quota, |name| name == "brevo");
        assert_eq!(alarms.list(), []);
    }

    /// Logs, metrics, JSON and operators' rules know the alarms by them.
    #[test]
    fn words_are_as_ever() {
        let kinds = [
            Kind::Breaker,
            Kind::Account,
            Kind::Tls,
            Kind::Quota,
            Kind::Overdue,
            Kind::Ledger,
            Kind::Heartbeat,
            Kind::Silence,
            Kind::Signature,
            Kind::Clock,
            Kind::Backlog,
            Kind::Slow,
            Kind::Stuck,
            Kind::Bounces,
            Kind::Complaints,
            Kind::Deliveries,
            Kind::Sink,
            Kind::Inbound,
            Kind::Disk,
            Kind::Certificate,
            Kind::Journal,
            Kind::Dead,
            Kind::Sync,
            Kind::Polls,
            Kind::Descriptors,
            Kind::Listener,
            Kind::Withheld,
        ];
        let words: String = kinds.iter().map(|kind| format!("{}\n", kind.word())).collect();
        crate::golden::check("alarm-words.txt", &words);
    }
}
