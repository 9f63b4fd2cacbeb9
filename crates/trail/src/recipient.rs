use crate::message::{Occasion, Verb};
use crate::provider_event::{Event, Kind, Words};
use crate::step;
use crate::trail_event::Rung;
use mailtrail_mail::{Mailbox, Timestamp};

/// One recipient of one send.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// The envelope's address.
    pub address: Mailbox,
    /// What our own attempts came to.
    pub standing: Standing,
    /// Whether an operator holds it back.
    pub held: bool,
    /// What the provider reported.
    pub marks: Marks,
    /// What our last attempt heard.
    pub words: Words,
    /// The provider's report of a permanent failure; of several the one that every order of arrival ends with.
    pub failure: Option<Failure>,
    /// The gravest occasion on which the sender was, or is about to be, told.
    pub told: Option<Occasion>,
    /// How far our attempts came that did not end with a clear answer.
    pub sent: Sent,
    /// Whether an event that names our tracking id shows that the provider has the message.
    pub traced: bool,
}

/// How far the attempts came that had no clear end; the furthest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// No message was sent whole.
    #[default]
    Nothing,
    /// A message was sent whole, and refused for now.
    Deferred,
    /// A message was sent whole, and no answer came: a copy may have arrived.
    Unanswered,
}

/// A provider's report of a permanent failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Bounced, suppressed or rejected.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// In its words.
    pub words: Words,
}

impl Failure {
    /// The graver kind first, then the earlier, then by its words.
    fn order(&self) -> (Kind, Timestamp, &str, Option<&str>) {
        (self.kind, self.at, &self.words.name, self.words.text.as_deref())
    }
}

/// What we ourselves know about a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
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

impl Standing {
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
    pub const fn word(self) -> &'static str {
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
pub enum State {
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

impl State {
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
    pub const fn word(self) -> &'static str {
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
    By(Kind),
    /// An event of that kind that software caused.
    ByMachine(Kind),
}

/// First, last and number of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
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
pub struct Marks(Vec<(MarkKind, Mark)>);

impl Marks {
    /// Marks as they were stored.
    pub fn new(mut marks: Vec<(MarkKind, Mark)>) -> Self {
        marks.sort_by_key(|(kind, _)| *kind);
        Self(marks)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(MarkKind, Mark)> {
        self.0.iter()
    }

    /// The mark of one kind, by people.
    pub fn of(&self, kind: Kind) -> Option<Mark> {
        self.find(MarkKind::By(kind)).ok().map(|index| self.0[index].1)
    }

    /// Whether software caused any of them.
    pub fn has_by_machine(&self) -> bool {
        self.0.iter().any(|(kind, _)| matches!(kind, MarkKind::ByMachine(_)))
    }

    fn has(&self, kind: Kind) -> bool {
        self.of(kind).is_some()
    }

    fn find(&self, kind: MarkKind) -> Result<usize, usize> {
        self.0.binary_search_by_key(&kind, |(kind, _)| *kind)
    }

    fn add(&mut self, kind: MarkKind, at: Timestamp) {
        match self.find(kind) {
            Ok(index) => {
                let mark = &mut self.0[index].1;
                mark.first = mark.first.min(at);
                mark.last = mark.last.max(at);
                mark.count = mark.count.saturating_add(1);
            }
            Err(index) => self.0.insert(index, (kind, Mark { first: at, last: at, count: 1 })),
        }
    }
}

impl Recipient {
    /// A recipient of a send that was just accepted.
    pub fn new(address: Mailbox) -> Self {
        Self {
            address,
            standing: Standing::Queued,
            held: false,
            marks: Marks::default(),
            words: Words::default(),
            failure: None,
            told: None,
            sent: Sent::default(),
            traced: false,
        }
    }

    /// Takes what an attempt came to, and its words. One that failed for now does not tell how an earlier one ended:
    /// what may have arrived still may have.
    pub fn attempted(&mut self, standing: Standing, words: &Words) {
        let sent = match standing {
            Standing::Unknown => Sent::Unanswered,
            Standing::Queued if step::SENT_WHOLE.contains(&&*words.name) => Sent::Deferred,
            _ => Sent::Nothing,
        };
        self.sent = self.sent.max(sent);
        if (self.standing, standing) != (Standing::Unknown, Standing::Queued) {
            self.standing = standing;
        }
        self.words = words.clone();
    }

    /// Takes a provider's event, which found the send by `rung`; the caller has made sure that it is no repetition.
    pub fn report(&mut self, event: &Event, rung: Rung) {
        self.mark(event.kind, event.by_machine, event.at, &event.words, rung);
    }

    /// The same, of what a trail keeps of an event.
    pub fn mark(&mut self, kind: Kind, by_machine: bool, at: Timestamp, words: &Words, rung: Rung) {
        // What the provider refused, it does not have.
        self.traced |= rung == Rung::Tracking && !matches!(kind, Kind::Rejected | Kind::Unknown);
        self.marks.add(if by_machine { MarkKind::ByMachine(kind) } else { MarkKind::By(kind) }, at);
        if kind.is_permanent_failure() {
            let reported = Failure { kind, at, words: words.clone() };
            if self.failure.as_ref().is_none_or(|known| reported.order() < known.order()) {
                self.failure = Some(reported);
            }
        }
    }

    /// The words behind the state.
    pub fn reason(&self) -> &Words {
        match &self.failure {
            Some(failure) if self.standing != Standing::Bounced => &failure.words,
            _ => &self.words,
        }
    }

    /// The reason in one line; it also says when a copy may have arrived although an attempt failed.
    pub fn explanation(&self) -> Option<String> {
        let said = self.reason().in_one_line();
        let copy = self.may_have_arrived().then(|| COPY.to_owned());
        match (said, copy) {
            (Some(said), Some(copy)) => Some(format!("{said}; {copy}")),
            (said, copy) => said.or(copy),
        }
    }

    /// Whether an attempt failed for good and an earlier one, which got no answer, may have delivered a copy.
    pub fn may_have_arrived(&self) -> bool {
        self.sent == Sent::Unanswered && self.state().is_failure() && !self.is_reported()
    }

    /// Whether the provider has a copy that was sent whole: an event that names our tracking id speaks of it.
    fn is_proven(&self) -> bool {
        self.traced && self.sent != Sent::Nothing
    }

    /// What became of it. A permanent failure is never hidden by a delivery, early or late; a provider that reports
    /// anything has the message, whatever our own attempts came to. One that waits for its attempt, or was refused,
    /// stays so unless a message was sent whole before and the event names our id: an event cannot speak of what was
    /// not sent, and by Message-ID it may speak of another send.
    pub fn state(&self) -> State {
        match self.standing {
            Standing::Queued if self.held && !self.is_proven() => State::Held,
            Standing::Queued if !self.is_proven() => State::Queued,
            Standing::Bounced if !self.is_proven() => State::Bounced,
            _ if self.marks.has(Kind::Bounced) => State::Bounced,
            _ if self.marks.has(Kind::Delivered) => State::Delivered,
            _ if self.marks.has(Kind::Suppressed) => State::Suppressed,
            _ if self.marks.has(Kind::Rejected) => State::Failed,
            _ if self.is_reported() => State::Relayed,
            Standing::Queued | Standing::Relayed => State::Relayed,
            Standing::Bounced => State::Bounced,
            Standing::Failed => State::Failed,
            Standing::Expired => State::Expired,
            Standing::Cancelled => State::Cancelled,
            Standing::Suppressed => State::Suppressed,
            Standing::Unknown if self.held => State::Held,
            Standing::Unknown => State::Unknown,
        }
    }

    /// Whether the provider reported anything about it.
    pub fn is_reported(&self) -> bool {
        self.marks.iter().any(|(kind, _)| !matches!(kind, MarkKind::By(Kind::Unknown)))
    }

    /// Whether an attempt is still to be made.
    pub fn waits(&self) -> bool {
        matches!(self.state(), State::Queued | State::Unknown)
    }

    /// Whether it has not come to an end yet: it waits, or is held back.
    pub fn is_open(&self) -> bool {
        self.waits() || self.state() == State::Held
    }

    /// Does as an operator says, if it is still open.
    pub fn act(&mut self, verb: Verb, words: &Words) {
        if !self.is_open() {
            return;
        }
        match verb {
            Verb::Retry => return,
            Verb::Hold => self.held = true,
            Verb::Release => self.held = false,
            Verb::Bounce => self.standing = Standing::Failed,
            Verb::Delete => self.standing = Standing::Cancelled,
        }
        self.words = words.clone();
    }
}

/// What is said of a copy that may have arrived.
const COPY: &str = "an earlier attempt was sent whole and got no answer, so a copy may have arrived";

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, seconds: u64, by_machine: bool) -> Event {
        Event {
            kind,
            at: Timestamp::from_seconds(seconds),
            identity: format!("{kind:?}{seconds}"),
            recipient: None,
            tracking: None,
            message_id: None,
            by_machine,
            test_mode: false,
            words: Words { name: kind.word().into(), ..Words::default() },
        }
    }

    fn after(standing: Standing, kinds: &[Kind]) -> State {
        let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
        recipient.standing = standing;
        kinds
            .iter()
            .enumerate()
            .for_each(|(i, kind)| recipient.report(&event(*kind, i as u64, false), Rung::MessageId));
        recipient.state()
    }

    #[test]
    fn states_follow_from_what_is_known() {
        for (standing, kinds, expected) in [
            (Standing::Queued, &[][..], State::Queued),
            (Standing::Queued, &[Kind::Delivered], State::Queued),
            (Standing::Relayed, &[Kind::Opened], State::Relayed),
            (Standing::Relayed, &[Kind::Delivered, Kind::Bounced], State::Bounced),
            (Standing::Relayed, &[Kind::Bounced, Kind::Delivered], State::Bounced),
            (Standing::Bounced, &[Kind::Delivered], State::Bounced),
            (Standing::Unknown, &[Kind::Accepted], State::Relayed),
            (Standing::Unknown, &[Kind::Unknown], State::Unknown),
            (Standing::Expired, &[Kind::Delivered], State::Delivered),
            (Standing::Relayed, &[Kind::Suppressed], State::Suppressed),
            (Standing::Suppressed, &[], State::Suppressed),
            (Standing::Suppressed, &[Kind::Delivered], State::Delivered),
            (Standing::Relayed, &[Kind::Deferred, Kind::Delivered, Kind::Complained], State::Delivered),
        ] {
            assert_eq!(after(standing, kinds), expected, "{standing:?} {kinds:?}");
        }
    }

    /// An event proves something where a message was sent whole and the event names our tracking id.
    #[test]
    fn proof_settles_what_was_sent_whole() {
        use Standing::{Bounced, Queued, Unknown};
        let (tracking, other) = (Rung::Tracking, Rung::MessageId);
        for (attempts, kind, rung, expected) in [
            (&[(Queued, "end of data")][..], Kind::Delivered, tracking, State::Delivered),
            (&[(Queued, "messages.mime")], Kind::Accepted, tracking, State::Relayed),
            (&[(Queued, "end of data")], Kind::Bounced, tracking, State::Bounced),
            (&[(Queued, "end of data")], Kind::Rejected, tracking, State::Queued),
            (&[(Queued, "end of data")], Kind::Unknown, tracking, State::Queued),
            (&[(Queued, "end of data")], Kind::Delivered, other, State::Queued),
            (&[(Queued, "RCPT")], Kind::Delivered, tracking, State::Queued),
            (&[(Queued, "end of data"), (Queued, "RCPT")], Kind::Delivered, tracking, State::Delivered),
            (&[(Queued, "end of data"), (Bounced, "RCPT")], Kind::Delivered, tracking, State::Delivered),
            (&[(Unknown, "end of data"), (Bounced, "RCPT")], Kind::Delivered, tracking, State::Delivered),
            (&[(Unknown, "end of data"), (Bounced, "RCPT")], Kind::Delivered, other, State::Bounced),
            (&[(Bounced, "end of data")], Kind::Delivered, tracking, State::Bounced),
        ] {
            for early in [false, true] {
                let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
                let event = event(kind, 1, false);
                if early {
                    recipient.report(&event, rung);
                }
                for (standing, name) in attempts {
                    let words = Words { name: (*name).to_owned(), ..Words::default() };
                    recipient.attempted(*standing, &words);
                }
                if !early {
                    recipient.report(&event, rung);
                }
                assert_eq!(recipient.state(), expected, "{attempts:?} {kind:?} {rung:?} {early}");
            }
        }
    }

    #[test]
    fn events_in_any_order_end_in_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut events: Vec<_> = (0..random.u64(1..12))
                .map(|i| event(Kind::ALL[random.usize(..Kind::ALL.len())], i, random.bool()))
                .collect();
            let apply = |events: &[Event]| {
                let mut recipient = Recipient::new("ada@example.net".parse().unwrap());
                events.iter().for_each(|event| recipient.report(event, Rung::Tracking));
                (recipient.state(), recipient.failure, recipient.marks)
            };
            let first = apply(&events);
            random.shuffle(&mut events);
            assert_eq!(apply(&events), first);
        }
    }
}
