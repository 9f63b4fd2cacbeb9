//! Registry of active alarms. Raising an active alarm again logs nothing; `alarms::notifier` delivers notifications.

use mailtrail_mail::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The alarms of a process.
#[derive(Clone, Debug)]
pub struct AlarmRegistry {
    clock: Clock,
    active: Arc<Mutex<BTreeMap<(AlarmKind, String), ActiveAlarm>>>,
}

#[derive(Debug)]
struct ActiveAlarm {
    alarm: Alarm,
    /// The time passed at which it is over by itself.
    expires_after: Option<Duration>,
    /// How often it was counted.
    occurrences: u64,
}

/// One alarm that is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What kind of trouble.
    pub kind: AlarmKind,
    /// With what: an upstream's name, mostly.
    pub subject: String,
    /// What is known, and what to do.
    pub text: String,
    /// Since when.
    pub since: Timestamp,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// An upstream is left alone.
    Breaker,
    /// An upstream refuses the account, or its login.
    UpstreamAccount,
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
    MissingEvents,
    /// No report's signature fits.
    Signature,
    /// The provider's clock and ours differ, or ours jumped.
    Clock,
    /// Much mail waits.
    Backlog,
    /// Mail waits long for its upstream.
    RelayLatency,
    /// An upstream's answers are long in coming.
    UpstreamStuck,
    /// Too many hard bounces.
    BounceRate,
    /// Too many complaints.
    ComplaintRate,
    /// Too few deliveries.
    DeliveryRate,
    /// A sink takes nothing.
    Sink,
    /// A target takes no mail from outside.
    Inbound,
    /// The disk is nearly full.
    DiskSpace,
    /// A certificate ends soon, or has ended.
    Certificate,
    /// The journal cannot be written, or a sync of it failed.
    Journal,
    /// Something was put aside that nobody took or understood.
    DeadLetters,
    /// A provider's suppression lists cannot be brought together with ours.
    SuppressionSync,
    /// A provider cannot be asked for its events.
    EventPolls,
    /// There is hardly a file descriptor left, or none.
    Descriptors,
    /// A listener's address cannot be listened on.
    Listener,
    /// Transactional mail was not sent because of the suppression list.
    SuppressedRecipients,
}

impl AlarmKind {
    /// The word for logs, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::UpstreamAccount => "account",
            Self::Tls => "tls",
            Self::Quota => "quota",
            Self::Overdue => "overdue",
            Self::Ledger => "ledger",
            Self::Heartbeat => "heartbeat",
            Self::MissingEvents => "silence",
            Self::Signature => "signature",
            Self::Clock => "clock",
            Self::Backlog => "backlog",
            Self::RelayLatency => "slow",
            Self::UpstreamStuck => "stuck",
            Self::BounceRate => "bounces",
            Self::ComplaintRate => "complaints",
            Self::DeliveryRate => "deliveries",
            Self::Sink => "sink",
            Self::Inbound => "inbound",
            Self::DiskSpace => "disk",
            Self::Certificate => "certificate",
            Self::Journal => "journal",
            Self::DeadLetters => "dead",
            Self::SuppressionSync => "sync",
            Self::EventPolls => "polls",
            Self::Descriptors => "descriptors",
            Self::Listener => "listener",
            Self::SuppressedRecipients => "withheld",
        }
    }
}

impl Alarm {
    /// The upstream that it is about, if it is about one.
    pub fn upstream(&self) -> Option<&str> {
        match self.kind {
            AlarmKind::Clock if self.subject == MACHINE_SUBJECT => None,
            AlarmKind::Breaker
            | AlarmKind::UpstreamAccount
            | AlarmKind::Tls
            | AlarmKind::Quota
            | AlarmKind::MissingEvents
            | AlarmKind::Signature
            | AlarmKind::Clock
            | AlarmKind::RelayLatency
            | AlarmKind::UpstreamStuck
            | AlarmKind::SuppressionSync
            | AlarmKind::EventPolls
            | AlarmKind::SuppressedRecipients => Some(&self.subject),
            AlarmKind::Overdue
            | AlarmKind::Ledger
            | AlarmKind::Heartbeat
            | AlarmKind::Backlog
            | AlarmKind::BounceRate
            | AlarmKind::ComplaintRate
            | AlarmKind::DeliveryRate
            | AlarmKind::Sink
            | AlarmKind::Inbound
            | AlarmKind::DiskSpace
            | AlarmKind::Certificate
            | AlarmKind::Journal
            | AlarmKind::DeadLetters
            | AlarmKind::Descriptors
            | AlarmKind::Listener => None,
        }
    }
}

/// The subject of an alarm about this machine's clock; those of others are upstreams.
pub const MACHINE_SUBJECT: &str = "machine";

impl AlarmRegistry {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, active: Arc::default() }
    }

    /// Raises an alarm; one that is on already is not said again, unless its text changed.
    pub fn raise(&self, kind: AlarmKind, subject: &str, text: impl Into<String>) {
        self.insert(kind, subject, text.into(), true, None);
    }

    /// Raises an alarm, or clears it where there is nothing to say. One that is on already is not said again: its figures
    /// may change all the time.
    pub fn set(&self, kind: AlarmKind, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.insert(kind, subject, text, false, None),
            None => self.clear(kind, subject),
        }
    }

    /// Raises an alarm about something that happened once; it is over when nothing of the kind has happened for `lasts`,
    /// at the next [`Self::clear_expired`].
    pub fn raise_for(&self, kind: AlarmKind, subject: &str, text: &str, lasts: Duration) {
        self.insert(kind, subject, text.to_owned(), false, Some(self.clock.monotonic() + lasts));
    }

    /// Counts something that happened; the alarm is over when nothing of the kind has happened for `lasts`, at the next
    /// [`Self::clear_expired`], and says how often it has happened since it began.
    pub fn count_occurrences(
        &self,
        kind: AlarmKind,
        subject: &str,
        more: u64,
        text: impl FnOnce(u64) -> String,
        lasts: Duration,
    ) {
        let known =
            self.lock_active().get(&(kind, subject.to_owned())).map_or(0, |raised| raised.occurrences);
        let count = known + more;
        self.raise_for(kind, subject, &text(count), lasts);
        if let Some(raised) = self.lock_active().get_mut(&(kind, subject.to_owned())) {
            raised.occurrences = count;
        }
    }

    /// Ends what is over by itself.
    pub fn clear_expired(&self) {
        let passed = self.clock.monotonic();
        self.clear_where(|raised| raised.expires_after.is_some_and(|until| until <= passed));
    }

    /// Ends the alarms of a kind whose subjects `is_there` does not know: nobody else would.
    pub fn clear_unknown_subjects(&self, kind: AlarmKind, is_there: impl Fn(&str) -> bool) {
        self.clear_where(|raised| raised.alarm.kind == kind && !is_there(&raised.alarm.subject));
    }

    fn clear_where(&self, which: impl Fn(&ActiveAlarm) -> bool) {
        let found = |raised: &BTreeMap<(AlarmKind, String), ActiveAlarm>| {
            let found = raised.iter().filter(|(_, raised)| which(raised));
            found.map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        let found = found(&self.lock_active());
        for (kind, subject) in found {
            self.clear(kind, &subject);
        }
    }

    fn insert(
        &self,
        kind: AlarmKind,
        subject: &str,
        text: String,
        say_changes: bool,
        expires_after: Option<Duration>,
    ) {
        let mut raised = self.lock_active();
        let raise = || ActiveAlarm {
            alarm: Alarm { kind, subject: subject.to_owned(), text: String::new(), since: self.clock.now() },
            expires_after,
            occurrences: 0,
        };
        let entry = raised.entry((kind, subject.to_owned())).or_insert_with(raise);
        entry.expires_after = expires_after;
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
        tracing::error!(alarm = kind.as_str(), subject, "{text}");
        export_alarm_gauge(kind, subject, 1.0);
    }

    /// Ends an alarm, if it is on.
    pub fn clear(&self, kind: AlarmKind, subject: &str) {
        if self.lock_active().remove(&(kind, subject.to_owned())).is_some() {
            tracing::info!(alarm = kind.as_str(), subject, "the alarm is over");
            export_alarm_gauge(kind, subject, 0.0);
        }
    }

    /// Those that are on.
    pub fn list(&self) -> Vec<Alarm> {
        self.lock_active().values().map(|raised| raised.alarm.clone()).collect()
    }

    fn lock_active(&self) -> MutexGuard<'_, BTreeMap<(AlarmKind, String), ActiveAlarm>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn export_alarm_gauge(kind: AlarmKind, subject: &str, value: f64) {
    metrics::gauge!("mailtrail_alarm", "alarm" => kind.as_str(), "subject" => subject.to_owned()).set(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtrail_mail::ManualClock;

    #[test]
    fn stays_active_until_cleared() {
        let alarms = AlarmRegistry::new(Clock::System);
        alarms.raise(AlarmKind::Quota, "mailgun", "80 % used");
        alarms.raise(AlarmKind::Quota, "mailgun", "95 % used");
        alarms.raise(AlarmKind::Breaker, "mailgun", "open");
        alarms.clear(AlarmKind::Breaker, "brevo");
        let texts: Vec<_> = alarms.list().into_iter().map(|alarm| alarm.text).collect();
        assert_eq!(texts, ["open", "95 % used"]);
        alarms.clear(AlarmKind::Breaker, "mailgun");
        assert_eq!(alarms.list().len(), 1);
    }

    #[test]
    fn counts_occurrences_until_expiry() {
        let moment = Box::leak(Box::<ManualClock>::default());
        let alarms = AlarmRegistry::new(Clock::Manual(moment));
        let count = |more| {
            alarms.count_occurrences(
                AlarmKind::SuppressedRecipients,
                "up",
                more,
                |count| format!("{count} mails"),
                Duration::from_secs(9),
            )
        };
        let text = || alarms.list().pop().map(|alarm| alarm.text);
        count(1);
        count(2);
        assert_eq!(text().as_deref(), Some("3 mails"));
        moment.advance_to(Timestamp::from_secs(9));
        alarms.clear_expired();
        assert_eq!(text(), None);
        count(1);
        assert_eq!(text().as_deref(), Some("1 mails"));
    }

    #[test]
    fn expires_without_new_occurrence() {
        let moment: &ManualClock = Box::leak(Box::default());
        let (alarms, hour) = (AlarmRegistry::new(Clock::Manual(moment)), Duration::from_secs(3600));
        let at = |hours: u64| moment.advance_to(Timestamp::from_secs(hours * 3600));
        at(1);
        alarms.raise_for(AlarmKind::DeadLetters, "events", "one", hour * 24);
        alarms.raise(AlarmKind::Quota, "mailgun", "80 % used");
        at(20);
        alarms.raise_for(AlarmKind::DeadLetters, "events", "another", hour * 24);
        for (hours, left) in [(43, 2), (44, 1), (99, 1)] {
            at(hours);
            alarms.clear_expired();
            assert_eq!(alarms.list().len(), left, "{hours}");
        }
        alarms.clear_unknown_subjects(AlarmKind::Breaker, |_| false);
        alarms.clear_unknown_subjects(AlarmKind::Quota, |name| name == "mailgun");
        assert_eq!(alarms.list().len(), 1);
        alarms.clear_unknown_subjects(AlarmKind::Quota, |name| name == "brevo");
        assert_eq!(alarms.list(), []);
    }

    /// Logs, metrics, JSON and operators' rules know the alarms by them.
    #[test]
    fn words_are_as_ever() {
        let kinds = [
            AlarmKind::Breaker,
            AlarmKind::UpstreamAccount,
            AlarmKind::Tls,
            AlarmKind::Quota,
            AlarmKind::Overdue,
            AlarmKind::Ledger,
            AlarmKind::Heartbeat,
            AlarmKind::MissingEvents,
            AlarmKind::Signature,
            AlarmKind::Clock,
            AlarmKind::Backlog,
            AlarmKind::RelayLatency,
            AlarmKind::UpstreamStuck,
            AlarmKind::BounceRate,
            AlarmKind::ComplaintRate,
            AlarmKind::DeliveryRate,
            AlarmKind::Sink,
            AlarmKind::Inbound,
            AlarmKind::DiskSpace,
            AlarmKind::Certificate,
            AlarmKind::Journal,
            AlarmKind::DeadLetters,
            AlarmKind::SuppressionSync,
            AlarmKind::EventPolls,
            AlarmKind::Descriptors,
            AlarmKind::Listener,
            AlarmKind::SuppressedRecipients,
        ];
        let words: String = kinds.iter().map(|kind| format!("{}\n", kind.as_str())).collect();
        crate::golden::check("alarm-words.txt", &words);
    }
}
