//! The rows in their own types. They are rebuilt from the journal when [`SCHEMA`] changes, so no old shape is kept.

use crate::journal::Place;
use crate::ledger::keys;
use crate::record::{EventV1, SendV5, StandingV1, VerbV1, WordsV1, kind_code, kind_of, occasion};
use mailtrail_mail::{Lane, MessageId, Timestamp, TrackingId};
use mailtrail_trail::{
    Chore, Fact, Failure, Mark, MarkKind, Marks, Occasion, Recipient, Rung, Sent, Source, Step, Waits, What,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of everything in this file and in the keys. A journal that older versions cannot read makes a new one, too:
/// they would not notice while the ledger is up to date, and read the journal from its beginning so.
pub const SCHEMA: u32 = 14;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SendRow {
    pub send: SendV5,
    pub recipients: u16,
    pub attempts: u32,
    /// Its place in the queue, while it is open.
    pub queued: Option<QueuedRow>,
    /// The upstream that may have the message: one that was sent it and did not answer.
    pub unknown_at: Option<Box<str>>,
    /// The upstreams that were found unable to take it when they were asked last.
    pub unable: Vec<Box<str>>,
    /// When the last attempt ended, or it was accepted.
    pub changed: u64,
    pub place: Place,
    /// Bytes of the message in the journal.
    pub body: u32,
    /// The recipient, where there is one; several have rows of their own.
    pub only: Option<RecipientRow>,
}

/// A place in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedRow {
    /// When the next attempt is due, or was to be when it was held.
    pub due: u64,
    /// What it waits for.
    pub waits: WaitsRow,
}

/// Also the value of a row of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitsRow {
    ForRoute(Option<Box<str>>),
    ForUpstream { name: Box<str>, route: Option<Box<str>> },
    Held,
    ForOthers { route: Option<Box<str>>, unable: Vec<Box<str>> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecipientRow {
    address: String,
    standing: StandingV1,
    held: bool,
    marks: Vec<(u8, bool, u64, u64, u32)>,
    words: WordsV1,
    failure: Option<(u8, u64, WordsV1)>,
    /// Of a failure, or else of the arrival.
    told: Option<bool>,
    /// By its place in [`SENT`].
    sent: u8,
    traced: bool,
}

const SENT: [Sent; 3] = [Sent::Nothing, Sent::Deferred, Sent::Unanswered];

#[derive(Debug, Serialize, Deserialize)]
pub struct OrphanRow {
    pub upstream: String,
    pub polled: bool,
    pub event: EventV1,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DeadRow {
    pub upstream: String,
    pub polled: bool,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct FactRow {
    at: u64,
    what: WhatRow,
    source: u8,
    upstream: Option<String>,
    recipients: Vec<u16>,
    words: WordsV1,
    due: Option<u64>,
    rung: Option<bool>,
    by_machine: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum WhatRow {
    Accepted,
    Attempted(StandingV1),
    Reported(u8),
    Repeated,
    /// Of a failure, or else of the arrival.
    Told(bool),
    Acted(VerbV1),
    Switched(bool),
    Died,
    Replayed,
    Listed(bool),
    /// By its place in [`Step::ALL`].
    Inbound(u8),
    Erased,
    /// By its place in [`Chore::ALL`].
    Ordered(u8),
}

impl From<&Waits> for WaitsRow {
    fn from(waits: &Waits) -> Self {
        match waits.clone() {
            Waits::ForRoute(route) => Self::ForRoute(route),
            Waits::ForOthers { route, unable } => Self::ForOthers { route, unable },
            Waits::ForUpstream { name, route } => Self::ForUpstream { name, route },
            Waits::Held => Self::Held,
        }
    }
}

impl From<WaitsRow> for Waits {
    fn from(stored: WaitsRow) -> Self {
        match stored {
            WaitsRow::ForRoute(route) => Self::ForRoute(route),
            WaitsRow::ForOthers { route, unable } => Self::ForOthers { route, unable },
            WaitsRow::ForUpstream { name, route } => Self::ForUpstream { name, route },
            WaitsRow::Held => Self::Held,
        }
    }
}

/// The stored form of a row.
pub fn encode(row: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(row).expect("plain data in memory always encodes")
}

/// The inverse of [`encode`]; `None` for a damaged row.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

impl QueuedRow {
    /// The key of its row in the queue.
    pub fn key(&self, lane: Lane, id: TrackingId) -> Vec<u8> {
        keys::due(keys::queue(lane, &self.waits), Timestamp::from_millis(self.due), id)
    }
}

impl SendRow {
    /// When its next attempt is due, while it is open.
    pub fn due(&self) -> Option<Timestamp> {
        self.queued.as_ref().map(|queued| Timestamp::from_millis(queued.due))
    }

    /// Whether that is its Message-ID; the index knows only a short hash.
    pub fn has_message_id(&self, message_id: &MessageId) -> bool {
        self.send.message_id().and_then(MessageId::parse).as_ref() == Some(message_id)
    }
}

impl From<&Recipient> for RecipientRow {
    fn from(recipient: &Recipient) -> Self {
        let marks = recipient.marks.iter().map(|(kind, mark)| {
            let (kind, by_machine) = match kind {
                MarkKind::By(kind) => (*kind, false),
                MarkKind::ByMachine(kind) => (*kind, true),
            };
            (kind_code(kind), by_machine, mark.first.millis(), mark.last.millis(), mark.count)
        });
        Self {
            address: recipient.address.to_string(),
            standing: recipient.standing.into(),
            held: recipient.held,
            marks: marks.collect(),
            words: (&recipient.words).into(),
            failure: recipient
                .failure
                .as_ref()
                .map(|failure| (kind_code(failure.kind), failure.at.millis(), (&failure.words).into())),
            told: recipient.told.map(|occasion| occasion == Occasion::Failure),
            sent: code_in(&SENT, &recipient.sent),
            traced: recipient.traced,
        }
    }
}

impl RecipientRow {
    pub fn restore(self) -> Option<Recipient> {
        let marks = self.marks.into_iter().map(|(kind, by_machine, first, last, count)| {
            let kind = kind_of(kind);
            let kind = if by_machine { MarkKind::ByMachine(kind) } else { MarkKind::By(kind) };
            (kind, Mark { first: Timestamp::from_millis(first), last: Timestamp::from_millis(last), count })
        });
        Some(Recipient {
            address: self.address.parse().ok()?,
            standing: self.standing.into(),
            held: self.held,
            marks: Marks::new(marks.collect()),
            words: self.words.into(),
            failure: self.failure.map(|(kind, at, words)| Failure {
                kind: kind_of(kind),
                at: Timestamp::from_millis(at),
                words: words.into(),
            }),
            told: self.told.map(occasion),
            sent: word_in(SENT, self.sent),
            traced: self.traced,
        })
    }
}

/// A word by its place in the list of all, to which words are only ever added at the end.
fn code_in<T: PartialEq>(all: &[T], word: &T) -> u8 {
    all.iter().position(|known| known == word).map_or(0, |place| place as u8)
}

/// The inverse of [`code_in`]; the first for a damaged code.
fn word_in<T: Copy, const N: usize>(all: [T; N], code: u8) -> T {
    *all.get(usize::from(code)).unwrap_or(&all[0])
}

impl From<&Fact> for FactRow {
    fn from(fact: &Fact) -> Self {
        Self {
            at: fact.at.millis(),
            what: match fact.what {
                What::Accepted => WhatRow::Accepted,
                What::Attempted(standing) => WhatRow::Attempted(standing.into()),
                What::Reported(kind) => WhatRow::Reported(kind_code(kind)),
                What::Repeated => WhatRow::Repeated,
                What::Told(occasion) => WhatRow::Told(occasion == Occasion::Failure),
                What::Switched { open } => WhatRow::Switched(open),
                What::Died => WhatRow::Died,
                What::Replayed => WhatRow::Replayed,
                What::Listed { on } => WhatRow::Listed(on),
                What::Erased => WhatRow::Erased,
                What::Ordered(chore) => WhatRow::Ordered(code_in(&Chore::ALL, &chore)),
                What::Inbound(step) => WhatRow::Inbound(code_in(&Step::ALL, &step)),
                What::Acted(verb) => WhatRow::Acted(verb.into()),
            },
            source: match fact.source {
                Source::Client => 0,
                Source::Attempt => 1,
                Source::Webhook => 2,
                Source::Relay => 3,
                Source::Operator => 4,
                Source::Poll => 5,
            },
            upstream: fact.upstream.clone(),
            recipients: fact.recipients.clone(),
            words: (&fact.words).into(),
            due: fact.due.map(Timestamp::millis),
            rung: fact.rung.map(|rung| rung == Rung::Tracking),
            by_machine: fact.by_machine,
        }
    }
}

impl From<FactRow> for Fact {
    fn from(row: FactRow) -> Self {
        Self {
            at: Timestamp::from_millis(row.at),
            what: match row.what {
                WhatRow::Accepted => What::Accepted,
                WhatRow::Attempted(standing) => What::Attempted(standing.into()),
                WhatRow::Reported(kind) => What::Reported(kind_of(kind)),
                WhatRow::Repeated => What::Repeated,
                WhatRow::Told(failure) => What::Told(occasion(failure)),
                WhatRow::Switched(open) => What::Switched { open },
                WhatRow::Died => What::Died,
                WhatRow::Replayed => What::Replayed,
                WhatRow::Listed(on) => What::Listed { on },
                WhatRow::Erased => What::Erased,
                WhatRow::Ordered(code) => What::Ordered(word_in(Chore::ALL, code)),
                WhatRow::Inbound(code) => What::Inbound(word_in(Step::ALL, code)),
                WhatRow::Acted(verb) => What::Acted(verb.into()),
            },
            source: match row.source {
                0 => Source::Client,
                1 => Source::Attempt,
                3 => Source::Relay,
                4 => Source::Operator,
                5 => Source::Poll,
                _ => Source::Webhook,
            },
            upstream: row.upstream,
            recipients: row.recipients,
            words: row.words.into(),
            due: row.due.map(Timestamp::from_millis),
            rung: row.rung.map(|tracking| if tracking { Rung::Tracking } else { Rung::MessageId }),
            by_machine: row.by_machine,
        }
    }
}
