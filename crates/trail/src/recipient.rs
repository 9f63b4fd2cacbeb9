use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use crate::queue_action::{DsnAction, QueueVerb};
use crate::received_event::CorrelatedBy;
use crate::recipient_state::{AttemptStatus, RecipientState};
use crate::step;
use mailtrail_mail::{Mailbox, Timestamp};

/// One recipient of one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// Address in the envelope.
    pub address: Mailbox,
    /// Result of the relay's own attempts.
    pub attempt_status: AttemptStatus,
    /// Whether an operator holds the message for this recipient.
    pub held: bool,
    /// Marks of provider events.
    pub marks: EventMarks,
    /// Diagnostic of the last attempt.
    pub diagnostic: Diagnostic,
    /// Permanent failure reported by the provider. Of several, the one that every order of arrival results
    /// in.
    pub reported_failure: Option<ReportedFailure>,
    /// Most severe DSN that was sent or is pending.
    pub dsn_sent: Option<DsnAction>,
    /// Furthest transmission of the attempts without a definite reply.
    pub transmission: Transmission,
    /// Whether an event with our tracking id shows that the provider has the message.
    pub tracking_confirmed: bool,
}

/// Furthest transmission of the attempts without a definite outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transmission {
    /// No message was sent completely.
    #[default]
    Incomplete,
    /// A message was sent completely and refused temporarily.
    Deferred,
    /// A message was sent completely, without a reply: a copy may have been delivered.
    Unanswered,
}

/// Permanent failure reported by a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedFailure {
    /// Bounced, suppressed or rejected.
    pub kind: EventKind,
    /// Time of the failure.
    pub at: Timestamp,
    /// The provider's diagnostic.
    pub diagnostic: Diagnostic,
}

impl ReportedFailure {
    /// Returns the sort key: the more severe kind first, then the earlier time, then the text.
    fn sort_key(&self) -> (EventKind, Timestamp, &str, Option<&str>) {
        (self.kind, self.at, &self.diagnostic.name, self.diagnostic.text.as_deref())
    }
}

/// Kind of mark, which separates people from software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    /// Event of that kind, caused by a person.
    Person(EventKind),
    /// Event of that kind, caused by software.
    Automated(EventKind),
}

/// First time, last time and number of events of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMark {
    /// Time of the earliest event.
    pub first: Timestamp,
    /// Time of the latest event.
    pub last: Timestamp,
    /// Number of events.
    pub count: u32,
}

/// Marks of a provider's events, ordered by kind. The same events result in equal marks in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventMarks(Vec<(MarkKind, EventMark)>);

impl EventMarks {
    /// Restores stored marks.
    pub fn new(mut marks: Vec<(MarkKind, EventMark)>) -> Self {
        marks.sort_by_key(|(kind, _)| *kind);
        Self(marks)
    }

    /// Returns all marks.
    pub fn iter(&self) -> impl Iterator<Item = &(MarkKind, EventMark)> {
        self.0.iter()
    }

    /// Returns the mark of one kind, for events caused by people.
    pub fn get(&self, kind: EventKind) -> Option<EventMark> {
        self.search(MarkKind::Person(kind)).ok().map(|index| self.0[index].1)
    }

    /// Returns whether software caused any event.
    pub fn has_automated(&self) -> bool {
        self.0.iter().any(|(kind, _)| matches!(kind, MarkKind::Automated(_)))
    }

    fn has(&self, kind: EventKind) -> bool {
        self.get(kind).is_some()
    }

    fn search(&self, kind: MarkKind) -> Result<usize, usize> {
        self.0.binary_search_by_key(&kind, |(kind, _)| *kind)
    }

    fn add_event(&mut self, kind: MarkKind, at: Timestamp) {
        match self.search(kind) {
            Ok(index) => {
                let mark = &mut self.0[index].1;
                mark.first = mark.first.min(at);
                mark.last = mark.last.max(at);
                mark.count = mark.count.saturating_add(1);
            }
            Err(index) => self.0.insert(index, (kind, EventMark { first: at, last: at, count: 1 })),
        }
    }
}

impl Recipient {
    /// Creates a recipient of a newly accepted message.
    pub fn new(address: Mailbox) -> Self {
        Self {
            address,
            attempt_status: AttemptStatus::Queued,
            held: false,
            marks: EventMarks::default(),
            diagnostic: Diagnostic::default(),
            reported_failure: None,
            dsn_sent: None,
            transmission: Transmission::default(),
            tracking_confirmed: false,
        }
    }

    /// Applies the result and the diagnostic of an attempt. A temporary failure does not settle an earlier
    /// attempt without a reply: its copy may still have been delivered.
    pub fn apply_attempt(&mut self, status: AttemptStatus, words: &Diagnostic) {
        let sent = match status {
            AttemptStatus::Unknown => Transmission::Unanswered,
            AttemptStatus::Queued if step::FULL_TRANSMISSIONS.contains(&&*words.name) => {
                Transmission::Deferred
            }
            _ => Transmission::Incomplete,
        };
        self.transmission = self.transmission.max(sent);
        if (self.attempt_status, status) != (AttemptStatus::Unknown, AttemptStatus::Queued) {
            self.attempt_status = status;
        }
        self.diagnostic = words.clone();
    }

    /// Applies a provider event that was correlated by `correlated_by`. The caller must have excluded duplicates.
    pub fn apply_event(&mut self, event: &ProviderEvent, correlated_by: CorrelatedBy) {
        self.add_mark(event.kind, event.automated, event.at, &event.diagnostic, correlated_by);
    }

    /// Applies an event from the data that a trail keeps of it.
    pub fn add_mark(
        &mut self,
        kind: EventKind,
        by_software: bool,
        at: Timestamp,
        words: &Diagnostic,
        correlated_by: CorrelatedBy,
    ) {
        // A provider does not have a message that it refused.
        self.tracking_confirmed |= correlated_by == CorrelatedBy::TrackingId
            && !matches!(kind, EventKind::Rejected | EventKind::Unknown);
        self.marks
            .add_event(if by_software { MarkKind::Automated(kind) } else { MarkKind::Person(kind) }, at);
        if kind.is_permanent_failure() {
            let reported = ReportedFailure { kind, at, diagnostic: words.clone() };
            if self.reported_failure.as_ref().is_none_or(|known| reported.sort_key() < known.sort_key()) {
                self.reported_failure = Some(reported);
            }
        }
    }

    /// Returns the diagnostic that explains the state.
    pub fn effective_diagnostic(&self) -> &Diagnostic {
        match &self.reported_failure {
            Some(failure) if self.attempt_status != AttemptStatus::Bounced => &failure.diagnostic,
            _ => &self.diagnostic,
        }
    }

    /// Returns the reason in one line. It includes that a copy may have been delivered although an attempt
    /// failed.
    pub fn explanation(&self) -> Option<String> {
        let reply = self.effective_diagnostic().to_line();
        let copy = self.may_have_arrived().then(|| POSSIBLE_COPY_TEXT.to_owned());
        match (reply, copy) {
            (Some(reply), Some(copy)) => Some(format!("{reply}; {copy}")),
            (reply, copy) => reply.or(copy),
        }
    }

    /// Returns whether an attempt failed permanently and an earlier one without a reply may have delivered a
    /// copy.
    pub fn may_have_arrived(&self) -> bool {
        self.transmission == Transmission::Unanswered
            && self.state().is_failure()
            && !self.has_provider_events()
    }

    /// Returns whether the provider has a completely sent copy: an event with our tracking id refers to it.
    fn is_confirmed(&self) -> bool {
        self.tracking_confirmed && self.transmission != Transmission::Incomplete
    }

    /// Returns the overall state. A permanent failure is never hidden by a delivery, early or late. A
    /// provider that reports any event has the message, whatever the relay's own attempts resulted in. A
    /// recipient that is waiting, or was refused, keeps that state, unless a message was sent completely
    /// before and the event has our tracking id. An event cannot refer to a message that was not sent, and by
    /// Message-ID it may refer to another message.
    pub fn state(&self) -> RecipientState {
        match self.attempt_status {
            AttemptStatus::Queued if self.held && !self.is_confirmed() => RecipientState::Held,
            AttemptStatus::Queued if !self.is_confirmed() => RecipientState::Queued,
            AttemptStatus::Bounced if !self.is_confirmed() => RecipientState::Bounced,
            _ if self.marks.has(EventKind::Bounced) => RecipientState::Bounced,
            _ if self.marks.has(EventKind::Delivered) => RecipientState::Delivered,
            _ if self.marks.has(EventKind::Suppressed) => RecipientState::Suppressed,
            _ if self.marks.has(EventKind::Rejected) => RecipientState::Failed,
            _ if self.has_provider_events() => RecipientState::Relayed,
            AttemptStatus::Queued | AttemptStatus::Relayed => RecipientState::Relayed,
            AttemptStatus::Bounced => RecipientState::Bounced,
            AttemptStatus::Failed => RecipientState::Failed,
            AttemptStatus::Expired => RecipientState::Expired,
            AttemptStatus::Cancelled => RecipientState::Cancelled,
            AttemptStatus::Suppressed => RecipientState::Suppressed,
            AttemptStatus::Unknown if self.held => RecipientState::Held,
            AttemptStatus::Unknown => RecipientState::Unknown,
        }
    }

    /// Returns whether the provider reported any event.
    pub fn has_provider_events(&self) -> bool {
        self.marks.iter().any(|(kind, _)| !matches!(kind, MarkKind::Person(EventKind::Unknown)))
    }

    /// Returns whether an attempt is still pending.
    pub fn is_pending(&self) -> bool {
        matches!(self.state(), RecipientState::Queued | RecipientState::Unknown)
    }

    /// Returns whether the recipient is not finished: waiting or held.
    pub fn is_open(&self) -> bool {
        self.is_pending() || self.state() == RecipientState::Held
    }

    /// Applies an operator's action if the recipient is still open.
    pub fn apply_action(&mut self, verb: QueueVerb, words: &Diagnostic) {
        if !self.is_open() {
            return;
        }
        match verb {
            QueueVerb::Retry => return,
            QueueVerb::Hold => self.held = true,
            QueueVerb::Release => self.held = false,
            QueueVerb::Bounce => self.attempt_status = AttemptStatus::Failed,
            QueueVerb::Delete => self.attempt_status = AttemptStatus::Cancelled,
        }
        self.diagnostic = words.clone();
    }
}

/// Text about a copy that may have been delivered.
const POSSIBLE_COPY_TEXT: &str =
    "an earlier attempt was sent whole and got no answer, so a copy may have arrived";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_event(kind: EventKind, seconds: u64, automated: bool) -> ProviderEvent {
        ProviderEvent {
            kind,
            at: Timestamp::from_secs(seconds),
            dedup_key: format!("{kind:?}{seconds}"),
            recipient: None,
            tracking_id: None,
            message_id: None,
            automated,
            test_mode: false,
            diagnostic: Diagnostic { name: kind.as_str().into(), ..Diagnostic::default() },
        }
    }

    fn state_after(status: AttemptStatus, kinds: &[EventKind]) -> RecipientState {
        let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
        recipient.attempt_status = status;
        kinds.iter().enumerate().for_each(|(i, kind)| {
            recipient.apply_event(&sample_event(*kind, i as u64, false), CorrelatedBy::MessageId)
        });
        recipient.state()
    }

    #[test]
    fn derives_state_from_attempts_and_events() {
        for (status, kinds, expected) in [
            (AttemptStatus::Queued, &[][..], RecipientState::Queued),
            (AttemptStatus::Queued, &[EventKind::Delivered], RecipientState::Queued),
            (AttemptStatus::Relayed, &[EventKind::Opened], RecipientState::Relayed),
            (AttemptStatus::Relayed, &[EventKind::Delivered, EventKind::Bounced], RecipientState::Bounced),
            (AttemptStatus::Relayed, &[EventKind::Bounced, EventKind::Delivered], RecipientState::Bounced),
            (AttemptStatus::Bounced, &[EventKind::Delivered], RecipientState::Bounced),
            (AttemptStatus::Unknown, &[EventKind::Accepted], RecipientState::Relayed),
            (AttemptStatus::Unknown, &[EventKind::Unknown], RecipientState::Unknown),
            (AttemptStatus::Expired, &[EventKind::Delivered], RecipientState::Delivered),
            (AttemptStatus::Relayed, &[EventKind::Suppressed], RecipientState::Suppressed),
            (AttemptStatus::Suppressed, &[], RecipientState::Suppressed),
            (AttemptStatus::Suppressed, &[EventKind::Delivered], RecipientState::Delivered),
            (
                AttemptStatus::Relayed,
                &[EventKind::Deferred, EventKind::Delivered, EventKind::Complained],
                RecipientState::Delivered,
            ),
        ] {
            assert_eq!(state_after(status, kinds), expected, "{status:?} {kinds:?}");
        }
    }

    /// An event proves delivery to the provider only after a complete transmission and with our tracking id.
    #[test]
    fn tracking_id_confirms_a_full_transmission() {
        use AttemptStatus::{Bounced, Queued, Unknown};
        let (tracking, other) = (CorrelatedBy::TrackingId, CorrelatedBy::MessageId);
        for (attempts, kind, correlated_by, expected) in [
            (&[(Queued, "end of data")][..], EventKind::Delivered, tracking, RecipientState::Delivered),
            (&[(Queued, "messages.mime")], EventKind::Accepted, tracking, RecipientState::Relayed),
            (&[(Queued, "end of data")], EventKind::Bounced, tracking, RecipientState::Bounced),
            (&[(Queued, "end of data")], EventKind::Rejected, tracking, RecipientState::Queued),
            (&[(Queued, "end of data")], EventKind::Unknown, tracking, RecipientState::Queued),
            (&[(Queued, "end of data")], EventKind::Delivered, other, RecipientState::Queued),
            (&[(Queued, "RCPT")], EventKind::Delivered, tracking, RecipientState::Queued),
            (
                &[(Queued, "end of data"), (Queued, "RCPT")],
                EventKind::Delivered,
                tracking,
                RecipientState::Delivered,
            ),
            (
                &[(Queued, "end of data"), (Bounced, "RCPT")],
                EventKind::Delivered,
                tracking,
                RecipientState::Delivered,
            ),
            (
                &[(Unknown, "end of data"), (Bounced, "RCPT")],
                EventKind::Delivered,
                tracking,
                RecipientState::Delivered,
            ),
            (
                &[(Unknown, "end of data"), (Bounced, "RCPT")],
                EventKind::Delivered,
                other,
                RecipientState::Bounced,
            ),
            (&[(Bounced, "end of data")], EventKind::Delivered, tracking, RecipientState::Bounced),
        ] {
            for early in [false, true] {
                let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
                let event = sample_event(kind, 1, false);
                if early {
                    recipient.apply_event(&event, correlated_by);
                }
                for (status, name) in attempts {
                    let words = Diagnostic { name: (*name).to_owned(), ..Diagnostic::default() };
                    recipient.apply_attempt(*status, &words);
                }
                if !early {
                    recipient.apply_event(&event, correlated_by);
                }
                assert_eq!(recipient.state(), expected, "{attempts:?} {kind:?} {correlated_by:?} {early}");
            }
        }
    }

    #[test]
    fn event_order_does_not_matter() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut events: Vec<_> = (0..random.u64(1..12))
                .map(|i| sample_event(EventKind::ALL[random.usize(..EventKind::ALL.len())], i, random.bool()))
                .collect();
            let apply = |events: &[ProviderEvent]| {
                let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
                events.iter().for_each(|event| recipient.apply_event(event, CorrelatedBy::TrackingId));
                (recipient.state(), recipient.reported_failure, recipient.marks)
            };
            let first = apply(&events);
            random.shuffle(&mut events);
            assert_eq!(apply(&events), first);
        }
    }
}
