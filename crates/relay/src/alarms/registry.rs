//! Registry of active alarms. Raising an active alarm again logs nothing; `alarms::notifier` sends notifications.

use mailtrail_mail::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Active alarms of a process.
#[derive(Clone, Debug)]
pub struct AlarmRegistry {
    clock: Clock,
    active: Arc<Mutex<BTreeMap<(AlarmKind, String), ActiveAlarm>>>,
}

#[derive(Debug)]
struct ActiveAlarm {
    alarm: Alarm,
    /// Monotonic time at which the alarm ends by itself.
    expires_after: Option<Duration>,
    /// Number of counted occurrences.
    occurrences: u64,
}

/// An active alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub kind: AlarmKind,
    /// Object of the alarm, mostly an upstream's name.
    pub subject: String,
    /// Fault and, if it depends on the case, its remedy.
    pub text: String,
    pub since: Timestamp,
}

/// Kinds of alarms. Each has a word, a remedy, and a section in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The circuit breaker of an upstream is open.
    Breaker,
    /// An upstream rejects the account or its login.
    UpstreamAccount,
    /// An upstream offers no TLS, or its certificate is not trusted.
    Tls,
    /// A plan's quota is nearly or completely used.
    Quota,
    /// A message is past its deadline, or its attempt does not end.
    Overdue,
    /// The ledger's rows are inconsistent, or the ledger cannot be written.
    Ledger,
    /// The heartbeat's events are missing.
    Heartbeat,
    /// Messages are relayed, but the provider sends no events.
    MissingEvents,
    /// All recent webhooks have invalid signatures.
    Signature,
    /// The clocks of provider and relay differ, or the relay's clock was set.
    Clock,
    /// The queue is longer than its threshold.
    Backlog,
    /// Messages wait too long for their upstream.
    RelayLatency,
    /// An upstream responds too slowly.
    UpstreamStuck,
    /// The hard bounce rate of a domain is too high.
    BounceRate,
    /// The complaint rate of a domain is too high.
    ComplaintRate,
    /// The delivery rate of a domain is too low.
    DeliveryRate,
    /// A sink accepts no events.
    Sink,
    /// An inbound target accepts no messages.
    Inbound,
    /// The data directory's disk is nearly full.
    DiskSpace,
    /// A certificate expires soon or has expired.
    Certificate,
    /// The journal cannot be written, or its fsync failed.
    Journal,
    /// There are new dead letters.
    DeadLetters,
    /// A provider's suppression lists cannot be synchronized.
    SuppressionSync,
    /// A provider's events cannot be polled.
    EventPolls,
    /// File descriptors are exhausted or nearly so.
    Descriptors,
    /// A listener cannot bind its address.
    Listener,
    /// A transactional message was not sent because of the suppression list.
    SuppressedRecipients,
    /// A background task of the relay has failed.
    Task,
}

impl AlarmKind {
    /// Returns the word in logs, metrics and JSON.
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
            Self::Task => "task",
        }
    }
}

impl Alarm {
    /// Returns the upstream that the alarm is about, if any.
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
            | AlarmKind::Listener
            | AlarmKind::Task => None,
        }
    }
}

/// Subject of a clock alarm about this machine; other subjects of that kind are upstreams.
pub const MACHINE_SUBJECT: &str = "machine";

/// Time that an alarm about a dead letter lasts after the last one.
pub(crate) const DEAD_LETTER_ALARM_WINDOW: Duration = Duration::from_secs(86_400);

impl AlarmRegistry {
    /// Creates an empty registry.
    pub fn new(clock: Clock) -> Self {
        Self { clock, active: Arc::default() }
    }

    /// Raises an alarm. An active alarm is logged again only if its text changed.
    pub fn raise(&self, kind: AlarmKind, subject: &str, text: impl Into<String>) {
        self.insert(kind, subject, text.into(), true, None);
    }

    /// Raises an alarm, or clears it if `text` is `None`. An active alarm is not logged again, because its numbers may
    /// change at any time.
    pub fn set(&self, kind: AlarmKind, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.insert(kind, subject, text, false, None),
            None => self.clear(kind, subject),
        }
    }

    /// Raises an alarm about an occurrence. It ends after `lasts` without another one, at the next
    /// [`Self::clear_expired`].
    pub fn raise_for(&self, kind: AlarmKind, subject: &str, text: &str, lasts: Duration) {
        self.insert(kind, subject, text.to_owned(), false, Some(self.clock.monotonic() + lasts));
    }

    /// Counts occurrences in an alarm; `text` gets their number since its start. It ends after `lasts` without
    /// another one, at the next [`Self::clear_expired`].
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

    /// Clears the expired alarms.
    pub fn clear_expired(&self) {
        let passed = self.clock.monotonic();
        self.clear_where(|raised| raised.expires_after.is_some_and(|until| until <= passed));
    }

    /// Clears the alarms of a kind that have a subject unknown to `is_there`: no other code clears them.
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

    /// Clears an alarm, if it is active.
    pub fn clear(&self, kind: AlarmKind, subject: &str) {
        if self.lock_active().remove(&(kind, subject.to_owned())).is_some() {
            tracing::info!(alarm = kind.as_str(), subject, "alarm cleared");
            export_alarm_gauge(kind, subject, 0.0);
        }
    }

    /// Returns the active alarms.
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

    /// Logs, metrics, JSON and alert rules contain these words.
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
            AlarmKind::Task,
        ];
        let words: String = kinds.iter().map(|kind| format!("{}\n", kind.as_str())).collect();
        crate::golden::check("alarm-words.txt", &words);
    }
}
