use crate::message::{DsnAction, QueueVerb};
use crate::provider_event::{Diagnostic, EventKind, ProviderEvent};
use crate::step;
use crate::trail_event::CorrelatedBy;
use mailtrail_mail::{Mailbox, Timestamp};

/// One recipient of one send.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// The envelope's address.
    pub address: Mailbox,
    /// What our own attempts came to.
    pub attempt_status: AttemptStatus,
    /// Whether an operator holds it back.
    pub held: bool,
    /// What the provider reported.
    pub marks: EventMarks,
    /// What our last attempt heard.
    pub diagnostic: Diagnostic,
    /// The provider's report of a permanent failure; of several the one that every order of arrival ends with.
    pub reported_failure: Option<ReportedFailure>,
    /// The gravest occasion on which the sender was, or is about to be, told.
    pub dsn_sent: Option<DsnAction>,
    /// How far our attempts came that did not end with a clear answer.
    pub transmission: Transmission,
    /// Whether an event that names our tracking id shows that the provider has the message.
    pub tracking_confirmed: bool,
}

/// How far the attempts came that had no clear end; the furthest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transmission {
    /// No message was sent whole.
    #[default]
    Incomplete,
    /// A message was sent whole, and refused for now.
    Deferred,
    /// A message was sent whole, and no answer came: a copy may have arrived.
    Unanswered,
}

/// A provider's report of a permanent failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedFailure {
    /// Bounced, suppressed or rejected.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// In its words.
    pub diagnostic: Diagnostic,
}

impl ReportedFailure {
    /// The graver kind first, then the earlier, then by its words.
    fn sort_key(&self) -> (EventKind, Timestamp, &str, Option<&str>) {
        (self.kind, self.at, &self.diagnostic.name, self.diagnostic.text.as_deref())
    }
}

/// What we ourselves know about a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptStatus {
    /// Waits for its next attempt.
    Queued,
    /// The upstream took it.
    Relayed,
    /// The upstream refused it for good.
    Bounced,
    /// Given up here.
    Failed,
    /// Given up here because of its age.
    Expired,
    /// The message was sent and no answer came: settled by an event, or tried again when due.
    Unknown,
    /// Taken out by an operator.
    Cancelled,
    /// Not sent: the address is on the suppression list.
    Suppressed,
}

impl AttemptStatus {
    /// Every standing.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Relayed,
        Self::Bounced,
        Self::Failed,
        Self::Expired,
        Self::Unknown,
        Self::Cancelled,
    ];

    /// The word for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Relayed => "relayed",
            Self::Bounced => "bounced",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Cancelled => "cancelled",
            Self::Suppressed => "suppressed",
        }
    }
}

/// What became of a recipient, all things considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecipientState {
    /// Waits for its next attempt.
    Queued,
    /// An attempt is under way.
    Sending,
    /// The provider took it; its further way is not known yet.
    Relayed,
    /// It reached the recipient's server.
    Delivered,
    /// Refused for good.
    Bounced,
    /// Given up.
    Failed,
    /// Given up because of its age.
    Expired,
    /// Not tried, by the provider or by us: the address is on a suppression list.
    Suppressed,
    /// Sent, and no answer came.
    Unknown,
    /// An operator holds it back.
    Held,
    /// An operator took it out.
    Cancelled,
}

impl RecipientState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Queued,
        Self::Sending,
        Self::Relayed,
        Self::Delivered,
        Self::Bounced,
        Self::Failed,
        Self::Expired,
        Self::Suppressed,
        Self::Unknown,
        Self::Held,
        Self::Cancelled,
    ];

    /// Whether the mail does not arrive, as far as is known.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Bounced | Self::Failed | Self::Expired | Self::Suppressed)
    }

    /// The word for tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Unknown => "unknown",
            Self::Held => "held",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Which mark an event leaves; people and software apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    /// An event of that kind.
    Person(EventKind),
    /// An event of that kind that software caused.
    Automated(EventKind),
}

/// First, last and number of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMark {
    /// The earliest.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
    /// How many.
    pub count: u32,
}

/// The marks that a provider's events left, in the order of their kinds: the same events in any order leave equal
/// marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventMarks(Vec<(MarkKind, EventMark)>);

impl EventMarks {
    /// Marks as they were stored.
    pub fn new(mut marks: Vec<(MarkKind, EventMark)>) -> Self {
        marks.sort_by_key(|(kind, _)| *kind);
        Self(marks)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(MarkKind, EventMark)> {
        self.0.iter()
    }

    /// The mark of one kind, by people.
    pub fn get(&self, kind: EventKind) -> Option<EventMark> {
        self.search(MarkKind::Person(kind)).ok().map(|index| self.0[index].1)
    }

    /// Whether software caused any of them.
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
    /// A recipient of a send that was just accepted.
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

    /// Takes what an attempt came to, and its words. One that failed for now does not tell how an earlier one ended:
    /// what may have arrived still may have.
    pub fn apply_attempt(&mut self, standing: AttemptStatus, words: &Diagnostic) {
        let sent = match standing {
            AttemptStatus::Unknown => Transmission::Unanswered,
            AttemptStatus::Queued if step::FULL_TRANSMISSIONS.contains(&&*words.name) => {
                Transmission::Deferred
            }
            _ => Transmission::Incomplete,
        };
        self.transmission = self.transmission.max(sent);
        if (self.attempt_status, standing) != (AttemptStatus::Unknown, AttemptStatus::Queued) {
            self.attempt_status = standing;
        }
        self.diagnostic = words.clone();
    }

    /// Takes a provider's event, which found the send by `rung`; the caller has made sure that it is no repetition.
    pub fn apply_event(&mut self, event: &ProviderEvent, rung: CorrelatedBy) {
        self.add_mark(event.kind, event.automated, event.at, &event.diagnostic, rung);
    }

    /// The same, of what a trail keeps of an event.
    pub fn add_mark(
        &mut self,
        kind: EventKind,
        by_machine: bool,
        at: Timestamp,
        words: &Diagnostic,
        rung: CorrelatedBy,
    ) {
        // What the provider refused, it does not have.
        self.tracking_confirmed |=
            rung == CorrelatedBy::TrackingId && !matches!(kind, EventKind::Rejected | EventKind::Unknown);
        self.marks.add_event(if by_machine { MarkKind::Automated(kind) } else { MarkKind::Person(kind) }, at);
        if kind.is_permanent_failure() {
            let reported = ReportedFailure { kind, at, diagnostic: words.clone() };
            if self.reported_failure.as_ref().is_none_or(|known| reported.sort_key() < known.sort_key()) {
                self.reported_failure = Some(reported);
            }
        }
    }

    /// The words behind the state.
    pub fn effective_diagnostic(&self) -> &Diagnostic {
        match &self.reported_failure {
            Some(failure) if self.attempt_status != AttemptStatus::Bounced => &failure.diagnostic,
            _ => &self.diagnostic,
        }
    }

    /// The reason in one line; it also says when a copy may have arrived although an attempt failed.
    pub fn explanation(&self) -> Option<String> {
        let said = self.effective_diagnostic().to_line();
        let copy = self.may_have_arrived().then(|| POSSIBLE_COPY_TEXT.to_owned());
        match (said, copy) {
            (Some(said), Some(copy)) => Some(format!("{said}; {copy}")),
            (said, copy) => said.or(copy),
        }
    }

    /// Whether an attempt failed for good and an earlier one, which got no answer, may have delivered a copy.
    pub fn may_have_arrived(&self) -> bool {
        self.transmission == Transmission::Unanswered
            && self.state().is_failure()
            && !self.has_provider_events()
    }

    /// Whether the provider has a copy that was sent whole: an event that names our tracking id speaks of it.
    fn is_confirmed(&self) -> bool {
        self.tracking_confirmed && self.transmission != Transmission::Incomplete
    }

    /// What became of it. A permanent failure is never hidden by a delivery, early or late; a provider that reports
    /// anything has the message, whatever our own attempts came to. One that waits for its attempt, or was refused,
    /// stays so unless a message was sent whole before and the event names our id: an event cannot speak of what was
    /// not sent, and by Message-ID it may speak of another send.
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

    /// Whether the provider reported anything about it.
    pub fn has_provider_events(&self) -> bool {
        self.marks.iter().any(|(kind, _)| !matches!(kind, MarkKind::Person(EventKind::Unknown)))
    }

    /// Whether an attempt is still to be made.
    pub fn is_pending(&self) -> bool {
        matches!(self.state(), RecipientState::Queued | RecipientState::Unknown)
    }

    /// Whether it has not come to an end yet: it waits, or is held back.
    pub fn is_open(&self) -> bool {
        self.is_pending() || self.state() == RecipientState::Held
    }

    /// Does as an operator says, if it is still open.
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

/// What is said of a copy that may have arrived.
const POSSIBLE_COPY_TEXT: &str =
    "an earlier attempt was sent whole and got no answer, so a copy may have arrived";

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, seconds: u64, automated: bool) -> ProviderEvent {
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

    fn state_after(standing: AttemptStatus, kinds: &[EventKind]) -> RecipientState {
        let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
        recipient.attempt_status = standing;
        kinds.iter().enumerate().for_each(|(i, kind)| {
            recipient.apply_event(&event(*kind, i as u64, false), CorrelatedBy::MessageId)
        });
        recipient.state()
    }

    #[test]
    fn derives_state_from_attempts_and_events() {
        for (standing, kinds, expected) in [
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
            assert_eq!(state_after(standing, kinds), expected, "{standing:?} {kinds:?}");
        }
    }

    /// An event proves something where a message was sent whole and the event names our tracking id.
    #[test]
    fn tracking_id_confirms_a_full_transmission() {
        use AttemptStatus::{Bounced, Queued, Unknown};
        let (tracking, other) = (CorrelatedBy::TrackingId, CorrelatedBy::MessageId);
        for (attempts, kind, rung, expected) in [
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
                let event = event(kind, 1, false);
                if early {
                    recipient.apply_event(&event, rung);
                }
                for (standing, name) in attempts {
                    let words = Diagnostic { name: (*name).to_owned(), ..Diagnostic::default() };
                    recipient.apply_attempt(*standing, &words);
                }
                if !early {
                    recipient.apply_event(&event, rung);
                }
                assert_eq!(recipient.state(), expected, "{attempts:?} {kind:?} {rung:?} {early}");
            }
        }
    }

    #[test]
    fn event_order_does_not_matter() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut events: Vec<_> = (0..random.u64(1..12))
                .map(|i| event(EventKind::ALL[random.usize(..EventKind::ALL.len())], i, random.bool()))
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
