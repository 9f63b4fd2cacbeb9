//! The providers' reports as they came, and where each of them stands.

use crate::group_commit::{CommitError, Wish};
use crate::journal::{Frame, Place};
use crate::record::Record;
use crate::stored_body::Stored;
use crate::{ReadError, Store};
use bytes::Bytes;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{Dead, Event, Hint, Replay, Rung, Via};
use std::collections::BTreeMap;
use std::io;

/// A provider's report as it is kept.
#[derive(Clone, Debug)]
pub struct Report {
    /// What names it; also says when it came.
    pub id: TrackingId,
    /// The upstream whose provider sent it.
    pub upstream: String,
    /// Which way it came.
    pub via: Via,
    /// What it says.
    pub content: Content,
    /// Where its raw form lies, as far as that is known.
    pub(crate) body: Option<Place>,
}

/// What a report says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// That happened.
    Event(Box<Event>),
    /// It cannot be understood.
    Dead {
        /// Why.
        reason: String,
    },
    /// Something about a contact, from somebody who sent none of our mail.
    Hint(Box<Hint>),
}

/// Where a report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It was brought to a send.
    Joined {
        /// Which.
        send: TrackingId,
        /// How it was found.
        rung: Rung,
    },
    /// It found no send and waits for one.
    Orphan,
    /// It cannot be understood.
    Dead,
    /// It is about a contact, and belongs to no send.
    Hint,
    /// Nothing is known of it but the journal's record: its send was forgotten, it aged out, or it repeats another.
    Gone,
}

impl Store {
    /// Keeps a report that cannot be understood, in its raw form; lookups see it on return.
    pub async fn bury(&self, dead: Dead, raw: Bytes) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Dead(Box::new(dead)), raw, wish).await
    }

    /// Applies what a report says now that it was read anew; lookups see it on return.
    pub async fn replay(&self, replay: Replay) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Replay(Box::new(replay)), Bytes::new(), wish).await
    }

    /// Events that found no send, newest first, at most `limit` of those that `wanted` asks for. Reads all of them.
    pub fn orphans(&self, limit: usize, wanted: impl Fn(&Report) -> bool) -> Result<Vec<Report>, ReadError> {
        let mut newest = BTreeMap::new();
        for orphan in self.projection()?.orphans() {
            let orphan = orphan?;
            if wanted(&orphan) {
                newest.insert(orphan.id, orphan);
            }
            if newest.len() > limit {
                newest.pop_first();
            }
        }
        Ok(newest.into_values().rev().collect())
    }

    /// Reports that cannot be understood, newest first, at most `limit` of those that `wanted` asks for.
    pub fn dead(&self, limit: usize, wanted: impl Fn(&Report) -> bool) -> Result<Vec<Report>, ReadError> {
        let projection = self.projection()?;
        let dead = projection.dead().filter(|dead| dead.as_ref().map_or(true, &wanted));
        Ok(dead.take(limit).collect::<Result<_, _>>()?)
    }

    /// Whether a report of the same body is among those that cannot be understood. Reads all of them.
    pub fn knows_dead(&self, dead: &Dead) -> Result<bool, ReadError> {
        let known = |report: &Report| report.upstream == dead.upstream && dead.is_same_body(report.id);
        Ok(!self.dead(1, known)?.is_empty())
    }

    /// How many events found no send, and how many reports cannot be understood. Reads all of them.
    pub fn count_letters(&self) -> Result<(u64, u64), ReadError> {
        Ok(self.projection()?.count_letters()?)
    }

    /// All reports in one of [`Store::log_segments`] that lookups can see, in the order of their arrival.
    pub fn reports_of(&self, segment: u32) -> Result<Vec<Report>, ReadError> {
        let projection = self.projection()?;
        let mut reports = Vec::new();
        let (frames, _) = self.frames(Place { segment, offset: 0 }, usize::MAX)?;
        for frame in frames {
            let Some(mut report) = Report::of(&frame) else { continue };
            if let Some(event) = projection.reread(report.id)? {
                report.content = event.into();
            }
            reports.push(report);
        }
        Ok(reports)
    }

    /// One report, if the journal still has it.
    pub fn report_of(&self, id: TrackingId) -> Result<Option<Report>, ReadError> {
        let segments = self.segments_since(id.timestamp())?;
        for segment in segments {
            let found = self.reports_of(segment)?.into_iter().find(|report| report.id == id);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The segments in which reports may lie that came then or later, oldest first.
    pub fn segments_since(&self, since: Timestamp) -> Result<Vec<u32>, ReadError> {
        let segments = self.log_segments()?;
        // A segment ends where its successor begins.
        let ended = segments.iter().skip(1).take_while(|(_, made)| *made < since).count();
        Ok(segments.into_iter().skip(ended).map(|(number, _)| number).collect())
    }

    /// The raw form of a report; `None` when it is no longer kept, or damaged.
    pub fn raw(&self, report: &Report) -> Result<Option<Bytes>, ReadError> {
        let Some(place) = report.body else { return Ok(None) };
        let segment = match self.0.segments.segment(place.segment) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match Stored::find(segment, place.offset)? {
            Some(stored) => Ok(stored.whole()?),
            None => Ok(None),
        }
    }

    /// Where a report stands.
    pub fn stand(&self, report: &Report) -> Result<Stand, ReadError> {
        Ok(self.projection()?.stand(report.id, &report.upstream, &report.content)?)
    }

    /// The send that an event would be brought to, were it new.
    pub fn find(&self, event: &Event) -> Result<Option<TrackingId>, ReadError> {
        Ok(self.projection()?.find(event)?.map(|(id, ..)| id))
    }
}

impl Content {
    /// What happened, where that is understood.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Dead { .. } | Self::Hint(_) => None,
        }
    }

    /// What it says about a contact, where it is no event.
    pub fn hint(&self) -> Option<&Hint> {
        match self {
            Self::Hint(hint) => Some(hint),
            Self::Event(_) | Self::Dead { .. } => None,
        }
    }
}

impl From<Event> for Content {
    fn from(event: Event) -> Self {
        Self::Event(Box::new(event))
    }
}

impl Report {
    fn of(frame: &Frame) -> Option<Self> {
        let (id, upstream, via, content) = match Record::decode(frame.kind, frame.version, &frame.head)
            .ok()?
        {
            Record::Notice(notice) => (notice.id(), notice.upstream, notice.via, notice.event.into()),
            Record::Dead(dead) => (dead.id(), dead.upstream, dead.via, Content::Dead { reason: dead.reason }),
            Record::Hint(hinted) => {
                (hinted.id(), hinted.source, Via::Webhook, Content::Hint(Box::new(hinted.hint)))
            }
            _ => return None,
        };
        let body = (frame.body_length > 0).then_some(frame.place);
        Some(Self { id, upstream, via, content, body })
    }
}
