//! The journal read as a log: every fact in the order it was written.

use crate::journal::{Frame, Place, Segment};
use crate::record::Record;
use crate::sink_cursor::Parcel;
use crate::{ReadError, Store, journal};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::suppression::{Change, Listing};
use mailtrail_trail::{Accepted, Errand, Fact, Inbound, Leg, Notice, Ordered, Outcome, Source, What, Words};
use std::io;

/// Where a reader of the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub(crate) Place);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.segment, self.0.offset)
    }
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a cursor is two numbers with a dot between them")]
pub struct NotACursor;

impl std::str::FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let (segment, offset) = text.split_once('.').ok_or(NotACursor)?;
        let number = |_| NotACursor;
        Ok(Self(Place { segment: segment.parse().map_err(number)?, offset: offset.parse().map_err(number)? }))
    }
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The send it belongs to; `None` for an event that found none.
    pub id: Option<TrackingId>,
    /// When it was written.
    pub written: Timestamp,
    /// What it says.
    pub fact: Fact,
}

impl Store {
    /// The end of the log as it is now.
    pub fn log_end(&self) -> Result<Cursor, ReadError> {
        Ok(Cursor(self.projection()?.position()?.unwrap_or_default()))
    }

    /// The log's segments, each with when it begins, oldest first.
    pub fn log_segments(&self) -> Result<Vec<(u32, Timestamp)>, ReadError> {
        let numbers = journal::segments(&self.0.journal)?;
        let made = numbers.into_iter().filter_map(|number| {
            let segment = Segment::open(&self.0.journal, number, None).ok()?;
            Some((number, segment.made()))
        });
        Ok(made.collect())
    }

    /// All entries of one segment that lookups can see.
    pub fn log_of(&self, segment: u32) -> Result<Vec<Entry>, ReadError> {
        let from = Place { segment, offset: 0 };
        Ok(self.read_on(from)?.0)
    }

    /// The entries behind `cursor`, and where they end. Moves over at most one segment.
    pub fn log_after(&self, cursor: Cursor) -> Result<(Vec<Entry>, Cursor), ReadError> {
        let (entries, end) = self.read_on(cursor.0)?;
        let next = Place { segment: end.segment + 1, offset: 0 };
        let done = end == cursor.0 && self.projection()?.position()?.is_some_and(|position| position >= next);
        Ok((entries, Cursor(if done { next } else { end })))
    }

    fn read_on(&self, from: Place) -> Result<(Vec<Entry>, Place), ReadError> {
        let (parcels, end) = self.parcels(from, usize::MAX)?;
        Ok((parcels.into_iter().flat_map(|parcel| parcel.entries).collect(), end))
    }

    /// What the first `limit` records of a segment behind `from` say, and the place behind them.
    pub(crate) fn parcels(&self, from: Place, limit: usize) -> Result<(Vec<Parcel>, Place), ReadError> {
        let (frames, end) = self.frames(from, limit)?;
        let mut parcels = Vec::new();
        for frame in frames {
            if let Ok(record) = Record::decode(frame.kind, frame.version, &frame.head) {
                let mut entries = Vec::new();
                self.entries(record, &mut entries)?;
                parcels.push(Parcel { cursor: Cursor(frame.place), entries });
            }
        }
        Ok((parcels, end))
    }

    /// The first `limit` records of a segment behind `from` that lookups can see, and the place behind them.
    pub(crate) fn frames(&self, from: Place, limit: usize) -> Result<(Vec<Frame>, Place), ReadError> {
        let applied = self.projection()?.position()?.unwrap_or_default();
        let until = if applied.segment > from.segment { None } else { Some(applied.offset) };
        let (mut frames, mut next) = (Vec::new(), None);
        if from.segment > applied.segment || from.segment == 0 {
            return Ok((frames, from));
        }
        let segment = Segment::open(&self.0.journal, from.segment, until)?;
        let keep = |frame: Frame| {
            if frames.len() == limit {
                next = Some(frame.place);
                return Err(io::Error::other("enough"));
            }
            frames.push(frame);
            Ok(())
        };
        let scanned = segment.scan(from.offset, false, keep, |_| {});
        let end = match next {
            Some(next) => next,
            None => Place { segment: from.segment, offset: scanned?.max(from.offset) },
        };
        Ok((frames, end))
    }

    pub(crate) fn entries(&self, record: Record, entries: &mut Vec<Entry>) -> Result<(), ReadError> {
        match record {
            Record::Accepted(accepted) => entries.push(of_acceptance(&accepted)),
            // The log tells of mail, and these of none.
            Record::Begun(_) | Record::Handed(_) | Record::Hint(_) | Record::Polled(_) => {}
            Record::Repeated(repeated) => entries.push(Entry {
                id: Some(repeated.id),
                written: repeated.at,
                fact: Fact::of_repetition(&repeated),
            }),
            Record::Action(action) => {
                let all = self.projection()?.send(action.id)?.map_or(0, |(_, row)| row.recipients);
                let fact = Fact::of_action(&action, (0..all).collect());
                entries.push(Entry { id: Some(action.id), written: action.at, fact });
            }
            Record::Switch(switch) => {
                entries.push(Entry { id: None, written: switch.at, fact: Fact::of_switch(switch) });
            }
            Record::Listing(listing) => entries.push(of_listing(*listing)),
            Record::Erased(erased) => {
                entries.push(Entry { id: None, written: erased.at, fact: Fact::of_erasure(*erased) });
            }
            Record::Ordered(ordered) => entries.push(of_order(*ordered)),
            Record::Outcome(outcome) => entries.extend(of_outcome(&outcome)),
            Record::Notice(notice) => {
                let found = self.projection()?.find(&notice.event)?;
                entries.push(of_notice(&notice, found));
            }
            Record::Inbound(inbound) => {
                let (written, fact) = match &*inbound {
                    Inbound::Arrived(arrival) => {
                        let first = if arrival.held.is_some() { Leg::Dead } else { Leg::Waiting };
                        let known = self.projection()?.inbound_mail(arrival.id)?;
                        let same = known.is_some_and(|(mail, _)| mail.leg == Leg::Duplicate);
                        let leg = if same { Leg::Duplicate } else { first };
                        (arrival.id.timestamp(), Fact::of_arrival(arrival, leg))
                    }
                    Inbound::Moved(moved) => (moved.at, Fact::of_move(moved)),
                };
                entries.push(Entry { id: None, written, fact });
            }
            Record::Dead(dead) => {
                entries.push(Entry { id: None, written: dead.at, fact: Fact::of_dead(&dead) });
            }
            Record::Replay(replay) => {
                let id = self.projection()?.find(&replay.event)?.map(|(id, ..)| id);
                entries.push(Entry { id, written: replay.at, fact: Fact::of_replay(&replay) });
            }
        }
        Ok(())
    }
}

fn of_acceptance(accepted: &Accepted) -> Entry {
    let id = accepted.send.id;
    Entry { id: Some(id), written: id.timestamp(), fact: Fact::of_acceptance(&accepted.send) }
}

fn of_outcome(outcome: &Outcome) -> impl Iterator<Item = Entry> {
    outcome.settled.iter().map(|settled| {
        let fact = Fact::of_attempt(outcome, settled);
        Entry { id: Some(outcome.id), written: outcome.at, fact }
    })
}

fn of_order(ordered: Ordered) -> Entry {
    let id = match ordered.errand {
        Errand::SendTest { id } => Some(id),
        _ => None,
    };
    Entry { id, written: ordered.at, fact: Fact::of_order(ordered) }
}

fn of_listing(listing: Listing) -> Entry {
    let (on, why) = match &listing.change {
        Change::Add { reason, marks } => {
            let words = marks.last().map(|mark| mark.words.as_str()).filter(|words| !words.is_empty());
            (true, words.map_or(reason.word().to_owned(), |words| format!("{}: {words}", reason.word())))
        }
        Change::Remove { reason, words } => {
            let reason = reason.map_or("all reasons", |reason| reason.word());
            (false, if words.is_empty() { reason.to_owned() } else { format!("{reason}: {words}") })
        }
    };
    let text = Some(format!("{} {why}", listing.address));
    let source = if listing.operator.is_empty() { Source::Relay } else { Source::Operator };
    let fact = Fact {
        upstream: listing.list,
        words: Words { name: listing.operator, text, ..Words::default() },
        ..Fact::new(listing.at, What::Listed { on }, source)
    };
    Entry { id: None, written: listing.at, fact }
}

fn of_notice(notice: &Notice, found: Option<(TrackingId, Vec<u16>, mailtrail_trail::Rung)>) -> Entry {
    let (id, recipients, rung) = match found {
        Some((id, recipients, rung)) => (Some(id), recipients, Some(rung)),
        None => (None, Vec::new(), None),
    };
    let fact = Fact::of_event(&notice.event, &notice.upstream, notice.via, recipients, rung);
    Entry { id, written: notice.at, fact }
}
