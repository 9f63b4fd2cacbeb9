use crate::dead_letter::{Dead, Replay};
use crate::erasure::Erased;
use crate::inbound::{Arrival, Fate, Leg, Move, missing_files_text};
use crate::message::{About, Action, Occasion, Outcome, Repeated, Send, Settled, Switch, Verb, Via};
use crate::operator_action::{Chore, Errand, Ordered};
use crate::provider_event::{Event, Kind, Words};
use crate::recipient::Standing;
use mailtrail_mail::{Timestamp, TrackingId};
use std::collections::BTreeSet;

/// One line of a trail: something that happened, and how we know.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// When it happened.
    pub at: Timestamp,
    /// What.
    pub what: What,
    /// How we know.
    pub source: Source,
    /// The upstream it has to do with.
    pub upstream: Option<String>,
    /// Whom it concerns, by their places in the envelope; empty: all of them.
    pub recipients: Vec<u16>,
    /// The words of whoever told us.
    pub words: Words,
    /// When the next attempt is due because of it.
    pub due: Option<Timestamp>,
    /// How an event found its send.
    pub rung: Option<Rung>,
    /// Whether software did it, not a person.
    pub by_machine: bool,
}

impl Fact {
    /// Something about everybody, of which nothing else is known.
    pub fn new(at: Timestamp, what: What, source: Source) -> Self {
        Self {
            at,
            what,
            source,
            upstream: None,
            recipients: Vec::new(),
            words: Words::default(),
            due: None,
            rung: None,
            by_machine: false,
        }
    }

    /// The first fact of every trail.
    pub fn of_acceptance(send: &Send) -> Self {
        let repaired = send.repaired.then_some(REPAIRED);
        let changes: Vec<_> =
            repaired.into_iter().chain(send.header_changes.iter().map(String::as_str)).collect();
        let text = Some(changes.join("; ")).filter(|text| !text.is_empty());
        let words = Words { host: send.peer.map(|peer| peer.to_string()), text, ..Words::default() };
        Self { words, ..Self::new(send.id.timestamp(), What::Accepted, Source::Client) }
    }

    /// What a trail says about a part of an attempt's outcome.
    pub fn of_attempt(outcome: &Outcome, settled: &Settled) -> Self {
        let source = match settled.standing {
            // No upstream was asked.
            Standing::Suppressed => Source::Relay,
            _ if outcome.upstream.is_empty() => Source::Relay,
            _ => Source::Attempt,
        };
        Self {
            upstream: Some(outcome.upstream.clone()).filter(|upstream| !upstream.is_empty()),
            recipients: settled.recipients.clone(),
            words: settled.words.clone(),
            due: outcome.due,
            ..Self::new(outcome.at, What::Attempted(settled.standing), source)
        }
    }

    /// What a trail says about a provider's event that found its send by `rung`, if it did.
    pub fn of_event(
        event: &Event,
        upstream: &str,
        via: Via,
        recipients: Vec<u16>,
        rung: Option<Rung>,
    ) -> Self {
        Self {
            upstream: Some(upstream.to_owned()),
            recipients,
            words: event.words.clone(),
            rung,
            by_machine: event.by_machine,
            ..Self::new(event.at, What::Reported(event.kind), via.into())
        }
    }

    /// What the log says about a report that cannot be understood.
    pub fn of_dead(dead: &Dead) -> Self {
        let words =
            Words { name: dead.id().to_string(), text: Some(dead.reason.clone()), ..Words::default() };
        Self {
            upstream: Some(dead.upstream.clone()),
            words,
            ..Self::new(dead.at, What::Died, dead.via.into())
        }
    }

    /// What the log says about a report that was read anew.
    pub fn of_replay(replay: &Replay) -> Self {
        let Replay { id, at, operator, reason, upstream, event, .. } = replay;
        let text = Some(because(format!("{id} is read as {}", event.kind.word()), reason));
        let words = Words { name: operator.clone(), text, ..Words::default() };
        Self { upstream: Some(upstream.clone()), words, ..Self::new(*at, What::Replayed, Source::Operator) }
    }

    /// What a trail says about a repetition.
    pub fn of_repetition(repeated: &Repeated) -> Self {
        Self {
            recipients: repeated.recipients.clone(),
            words: Words { host: repeated.peer.map(|peer| peer.to_string()), ..Words::default() },
            ..Self::new(repeated.at, What::Repeated, Source::Client)
        }
    }

    /// What a trail says about an operator's action on some recipients.
    pub fn of_action(action: &Action, recipients: Vec<u16>) -> Self {
        let words = action.words();
        Self { recipients, words, ..Self::new(action.at, What::Acted(action.verb), Source::Operator) }
    }

    /// What the log says about a breaker that an operator opened or closed.
    pub fn of_switch(switch: Switch) -> Self {
        let Switch { upstream, at, open, operator, reason } = switch;
        Self {
            upstream: Some(upstream),
            words: Words { name: operator, text: Some(reason), ..Words::default() },
            ..Self::new(at, What::Switched { open }, Source::Operator)
        }
    }

    /// What the log says about a mail from outside that came: where it stood then.
    pub fn of_arrival(arrival: &Arrival, leg: Leg) -> Self {
        let Arrival { id, upstream, sender, recipient, subject, size, .. } = arrival;
        let sender = sender.as_ref().map(ToString::to_string).unwrap_or_default();
        let why = arrival.held.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let missing =
            missing_files_text(arrival.missing_files).map(|text| format!(": {text}")).unwrap_or_default();
        let text = format!("<{sender}> to <{recipient}>, {size} bytes, {subject:?}{why}{missing}");
        let what = match leg {
            Leg::Waiting | Leg::Delivered => What::Inbound(Step::Arrived),
            Leg::Dead => What::Inbound(Step::Died),
            Leg::Duplicate => What::Inbound(Step::Duplicated),
        };
        Self {
            upstream: Some(upstream.clone()),
            words: Words { name: id.to_string(), text: Some(text), ..Words::default() },
            ..Self::new(id.timestamp(), what, Source::Webhook)
        }
    }

    /// What the log says about a mail from outside that went on, or did not.
    pub fn of_move(moved: &Move) -> Self {
        let (step, host, text, due) = match moved.fate.clone() {
            Fate::Delivered { target, words } => (Step::Delivered, target, words, None),
            Fate::Deferred { target, why, due } => (Step::Deferred, target, why, Some(due)),
            Fate::Dead { target, why } => (Step::Died, target, why, None),
            Fate::Released { operator, reason } => {
                (Step::Released, String::new(), because(operator, &reason), None)
            }
        };
        let source = if step == Step::Released { Source::Operator } else { Source::Relay };
        let (text, host) = (Some(text), Some(host).filter(|host| !host.is_empty()));
        Self {
            words: Words { name: moved.id.to_string(), text, host, ..Words::default() },
            due,
            ..Self::new(moved.at, What::Inbound(step), source)
        }
    }

    /// What the log says about an address that an operator had erased: its pseudonym, and why.
    pub fn of_erasure(erased: Erased) -> Self {
        let Erased { at, operator, reason, pseudonym, salt: _ } = erased;
        let text = Some(because(pseudonym, &reason));
        Self {
            words: Words { name: operator, text, ..Words::default() },
            ..Self::new(at, What::Erased, Source::Operator)
        }
    }

    /// What the log says about something that an operator had the relay do.
    pub fn of_order(ordered: Ordered) -> Self {
        let Ordered { at, errand, operator, reason } = ordered;
        let what = What::Ordered(errand.chore());
        let (upstream, about) = match errand {
            Errand::SinkReplay { sink, since } => (None, format!("{sink} since {since}")),
            Errand::StoreRebuild { despite_damage: true } => (None, DESPITE_DAMAGE.to_owned()),
            Errand::StoreRebuild { despite_damage: false } | Errand::SendTest { .. } => (None, String::new()),
            Errand::StoreBackup { directory } => (None, directory.display().to_string()),
            Errand::SuppressSync { upstream } => (Some(upstream), String::new()),
        };
        let text = Some(because(about, &reason)).filter(|text| !text.is_empty());
        Self {
            upstream,
            words: Words { name: operator, text, ..Words::default() },
            ..Self::new(at, what, Source::Operator)
        }
    }

    /// What a trail says about a report on one of its recipients.
    pub fn of_report(about: &About, report: TrackingId) -> Self {
        Self {
            recipients: vec![about.recipient],
            words: Words { text: Some(report.to_string()), ..Words::default() },
            ..Self::new(report.timestamp(), What::Told(about.occasion), Source::Relay)
        }
    }
}

/// What was done, with the reason where there is one.
fn because(what: String, reason: &str) -> String {
    match (what.is_empty(), reason.is_empty()) {
        (_, true) => what,
        (true, false) => reason.to_owned(),
        (false, false) => format!("{what}: {reason}"),
    }
}

const REPAIRED: &str = "List-Unsubscribe repaired";
const DESPITE_DAMAGE: &str = "despite damage";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// We took the mail.
    Accepted,
    /// An attempt ended, and this is where the recipients stand.
    Attempted(Standing),
    /// The provider reported this.
    Reported(Kind),
    /// The client handed it in again.
    Repeated,
    /// The sender was told, by a send of its own.
    Told(Occasion),
    /// An operator did this.
    Acted(Verb),
    /// An operator opened or closed the upstream's breaker.
    Switched {
        /// Or else closed.
        open: bool,
    },
    /// A provider's report could not be understood.
    Died,
    /// An operator had a report read anew.
    Replayed,
    /// An address was put on a suppression list.
    Listed {
        /// Or else taken off.
        on: bool,
    },
    /// A mail from outside went a step.
    Inbound(Step),
    /// An operator had an address erased.
    Erased,
    /// An operator had the relay do this.
    Ordered(Chore),
}

/// A step of a mail from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It came.
    Arrived,
    /// It came, and is the same as another.
    Duplicated,
    /// A target took it.
    Delivered,
    /// A target did not take it, for now.
    Deferred,
    /// It is a dead letter.
    Died,
    /// An operator wants it delivered.
    Released,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 6] =
        [Self::Arrived, Self::Duplicated, Self::Delivered, Self::Deferred, Self::Died, Self::Released];
}

impl What {
    /// The words of all facts.
    pub fn words() -> BTreeSet<&'static str> {
        let told = [Occasion::Failure, Occasion::Success].map(Self::Told);
        let own = [Self::Accepted, Self::Repeated, Self::Died, Self::Replayed, Self::Erased];
        let attempted = Standing::ALL.map(Self::Attempted);
        let reported = Kind::ALL.map(Self::Reported);
        let acted = Verb::ALL.map(Self::Acted);
        let switched = [true, false].map(|open| Self::Switched { open });
        let listed = [true, false].map(|on| Self::Listed { on });
        let inbound = Step::ALL.map(Self::Inbound);
        let ordered = Chore::ALL.map(Self::Ordered);
        own.into_iter()
            .chain(told)
            .chain(attempted)
            .chain(reported)
            .chain(acted)
            .chain(switched)
            .chain(listed)
            .chain(inbound)
            .chain(ordered)
            .map(Self::word)
            .collect()
    }

    /// The word of the event vocabulary.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Attempted(Standing::Queued) => "deferred",
            Self::Attempted(Standing::Expired) => "failed",
            Self::Attempted(standing) => standing.word(),
            Self::Reported(kind) => kind.word(),
            Self::Repeated => "repeated",
            Self::Told(Occasion::Failure) => "failure-reported",
            Self::Told(Occasion::Success) => "success-reported",
            Self::Acted(verb) => verb.done(),
            Self::Switched { open: true } => "breaker-opened",
            Self::Switched { open: false } => "breaker-closed",
            Self::Died => "dead",
            Self::Replayed => "replayed",
            Self::Listed { on: true } => "listed",
            Self::Listed { on: false } => "unlisted",
            Self::Inbound(Step::Arrived) => "inbound",
            Self::Inbound(Step::Duplicated) => "inbound-duplicate",
            Self::Inbound(Step::Delivered) => "inbound-delivered",
            Self::Inbound(Step::Deferred) => "inbound-deferred",
            Self::Inbound(Step::Died) => "inbound-dead",
            Self::Inbound(Step::Released) => "inbound-released",
            Self::Erased => "erased",
            Self::Ordered(chore) => chore.word(),
        }
    }
}

/// How we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client handed the mail to us.
    Client,
    /// An upstream answered us, or did not.
    Attempt,
    /// A provider's webhook.
    Webhook,
    /// A provider, when we asked it.
    Poll,
    /// Our own doing.
    Relay,
    /// An operator.
    Operator,
}

impl From<Via> for Source {
    fn from(via: Via) -> Self {
        match via {
            Via::Webhook => Self::Webhook,
            Via::Poll => Self::Poll,
        }
    }
}

impl Source {
    /// The word for tables and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Attempt => "smtp",
            Self::Webhook => "webhook",
            Self::Poll => "poll",
            Self::Relay => "mailtrail",
            Self::Operator => "operator",
        }
    }
}

/// How an event found its send: the rungs of the join ladder, surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// By the tracking id that we stamped.
    Tracking,
    /// By Message-ID and recipient.
    MessageId,
}

impl Rung {
    /// The word for tables and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tracking => "tracking-id",
            Self::MessageId => "message-id",
        }
    }
}
