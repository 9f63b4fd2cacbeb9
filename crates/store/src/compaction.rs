//! Keeps the store small: forgets what is past retention, rewrites segments of the journal that hold much that nobody
//! needs, and builds the projection anew when it has grown.
//!
//! The journal is the truth and the projection is not, so nothing is dropped on the projection's silence alone: a
//! message leaves only when a row says that it is finished, and a record that has no row only when it is past
//! retention by its own time.

use crate::group_commit::{CommitError, Committer, Task};
use crate::journal::{Frame, Keep, Place, RewriteError, Segment, rewrite};
use crate::ledger::Projection;
use crate::open::OpenError;
use crate::rebuild::discard;
use crate::record::Record;
use crate::replay::{ReplayError, chain};
use crate::retention::Retention;
use crate::{ReadError, Store};
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{Inbound, Leg};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::TryLockError;
use std::time::Duration;
use tokio::sync::oneshot;

/// What upkeep remembers between its steps.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Where the search for sends past retention goes on.
    sends: Option<TrackingId>,
    /// When the next search through everything is due.
    next_round: Timestamp,
    /// Damaged segments, which stay as they are.
    damaged: HashSet<u32>,
    /// Bytes at which the rows of the projection are counted again.
    measure_at: u64,
    /// When they are counted again in any case.
    next_measure: Timestamp,
    /// Bytes of a new projection's files for each byte of its rows.
    overhead: f64,
}

/// Upkeep could not go on; it tries again later.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// A lookup.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A segment.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The projection that was to take the place of the grown one.
    #[error("the ledger cannot be built anew: {0}")]
    Rebuild(#[from] ReplayError),
    /// The same.
    #[error("the ledger cannot be built anew: {0}")]
    Open(#[from] OpenError),
    /// The store's threads are gone.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<::sled::Error> for UpkeepError {
    fn from(error: ::sled::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<io::Error> for UpkeepError {
    fn from(error: io::Error) -> Self {
        Self::Read(error.into())
    }
}

impl Store {
    /// Does one piece of upkeep, of about a second at most but for the building of a new projection; true when there
    /// is more to do at once. Blocks. Traffic goes on meanwhile.
    pub fn maintain(&self, retention: &Retention, now: Timestamp) -> Result<bool, UpkeepError> {
        let Some(committer) = &self.0.committer else { return Ok(false) };
        let mut upkeep = match self.0.upkeep.try_lock() {
            Ok(upkeep) => upkeep,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody reads all of the journal; it holds still meanwhile.
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        // A closed ledger is looked after when it is open again.
        let Ok(projection) = self.projection() else { return Ok(false) };
        let step = Step { store: self, committer, projection: &projection, retention, now };
        Ok(step.compact(&mut upkeep)? || step.forget(&mut upkeep)? || step.rebuild(&mut upkeep)?)
    }
}

struct Step<'a> {
    store: &'a Store,
    committer: &'a Committer,
    projection: &'a Projection,
    retention: &'a Retention,
    now: Timestamp,
}

impl Step<'_> {
    /// Rewrites the first segment that it pays for.
    fn compact(&self, upkeep: &mut Upkeep) -> Result<bool, UpkeepError> {
        let Some(position) = self.projection.position()? else { return Ok(false) };
        let garbage = self.projection.garbage()?;
        let mut before_may_need_it = false;
        let chain = chain(&self.store.0.journal)?;
        for pair in chain.windows(2) {
            let ((number, end), (next, _)) = (pair[0], pair[1]);
            // What is not applied yet is not judged. The last one is written to.
            if position < (Place { segment: number, offset: end.unwrap_or(u64::MAX) }) {
                break;
            }
            let Ok(segment) = Segment::open(&self.store.0.journal, number, end) else { continue };
            let until = Segment::open(&self.store.0.journal, next, None).map_or(self.now, |next| next.made());
            let waste = garbage.get(&number).copied().unwrap_or_default();
            if !upkeep.damaged.contains(&number) && self.pays(&segment, until, waste) {
                self.rewrite(number, &segment, !before_may_need_it, waste, upkeep)?;
                return Ok(true);
            }
            before_may_need_it = segment.rewritten().is_none();
        }
        Ok(false)
    }

    /// Whether a segment that was written to until then holds enough that may go.
    fn pays(&self, segment: &Segment, until: Timestamp, waste: u64) -> bool {
        let rewritten = segment.rewritten().unwrap_or_default();
        let bodies_may_go = waste > 0 && until <= self.retention.bodies_horizon(self.now);
        let much = waste * 3 >= segment.length();
        let settled = self.now.since(rewritten.max(until)) >= SETTLED;
        // Once for each age at which something may go.
        let reached = |age| until.after(age) <= self.now && rewritten < until.after(age);
        // And from time to time for what was still in use then.
        let leftover = until <= self.retention.horizon(self.now) && self.now.since(rewritten) >= AGAIN;
        (bodies_may_go && (much || settled))
            || reached(self.retention.events)
            || reached(self.retention.everything())
            || leftover
    }

    fn rewrite(
        &self,
        number: u32,
        segment: &Segment,
        may_go: bool,
        waste: u64,
        upkeep: &mut Upkeep,
    ) -> Result<(), UpkeepError> {
        let mut failed = None;
        let keep = |frame: &Frame| {
            self.keep(frame).map_err(|error| {
                failed = Some(error);
                io::Error::other("the ledger cannot be read")
            })
        };
        let done = rewrite(&*self.store.0.disk, &self.store.0.journal, segment, may_go, self.now, keep);
        if let Some(error) = failed {
            return Err(error.into());
        }
        match done {
            Ok(done) => {
                self.store.0.segments.forget(number);
                // What finished meanwhile counts on.
                self.task(Task::Dropped(number, waste))?;
                upkeep.next_round = Timestamp::default();
                tracing::debug!(segment = number, before = done.before, after = done.after, "rewritten");
                Ok(())
            }
            Err(RewriteError::Damaged(number)) => {
                tracing::error!(segment = number, "a segment of the journal is damaged and stays as it is");
                upkeep.damaged.insert(number);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What stays of a record.
    fn keep(&self, frame: &Frame) -> ::sled::Result<Keep> {
        let Ok(record) = Record::decode(frame.kind, frame.version, &frame.head) else { return Ok(Keep::All) };
        let horizon = self.retention.horizon(self.now);
        let forgotten =
            |id, at: Timestamp| Ok::<_, ::sled::Error>(at < horizon && !self.projection.knows(id)?);
        Ok(match record {
            Record::Accepted(accepted) => self.keep_accepted(accepted.send.id, frame)?,
            Record::Begun(begun) if self.projection.is_sending(begun.id)? => Keep::All,
            Record::Begun(_) => Keep::Nothing,
            Record::Outcome(outcome) if forgotten(outcome.id, outcome.at)? => Keep::Nothing,
            Record::Repeated(repeated) if forgotten(repeated.id, repeated.at)? => Keep::Nothing,
            Record::Action(action) if forgotten(action.id, action.at)? => Keep::Nothing,
            Record::Outcome(_) | Record::Repeated(_) | Record::Action(_) => Keep::All,
            // Few and small, and a rebuild needs the last of each upstream.
            Record::Switch(_) => Keep::All,
            Record::Handed(handed) if self.projection.is_last(&handed)? => Keep::All,
            Record::Handed(handed) if handed.at >= horizon => Keep::All,
            Record::Handed(handed) if self.projection.is_delayed(&handed)? => Keep::All,
            Record::Handed(_) => Keep::Nothing,
            // Each is followed by another; one that old begins no poll any more.
            Record::Polled(polled) if polled.until >= horizon => Keep::All,
            Record::Polled(_) => Keep::Nothing,
            // A removal must outlive what it made void, and segments are rewritten in no order; nothing is written that
            // changes nothing, so there are few.
            Record::Listing(_) => Keep::All,
            // They say who did it, and what the suppression list knows the addresses by.
            Record::Erased(_) => Keep::All,
            Record::Ordered(ordered) if ordered.at >= horizon => Keep::All,
            Record::Ordered(_) => Keep::Nothing,
            Record::Notice(notice) if notice.at >= self.retention.events_horizon(self.now) => Keep::All,
            Record::Notice(notice) if notice.at >= horizon => Keep::Head,
            Record::Notice(notice) if self.projection.find(&notice.event)?.is_some() => Keep::Head,
            Record::Notice(notice) if self.projection.rests_on(&notice)? => Keep::Head,
            Record::Notice(_) => Keep::Nothing,
            Record::Hint(hinted) if hinted.received >= self.retention.events_horizon(self.now) => Keep::All,
            Record::Hint(_) => Keep::Nothing,
            Record::Dead(dead) if dead.at >= self.retention.events_horizon(self.now) => Keep::All,
            // Its token is known as long as those of other reports.
            Record::Dead(dead) if dead.at >= horizon => Keep::Head,
            Record::Dead(_) => Keep::Nothing,
            Record::Replay(replay) if replay.at >= horizon => Keep::All,
            Record::Replay(replay) if self.projection.find(&replay.event)?.is_some() => Keep::All,
            Record::Replay(_) => Keep::Nothing,
            Record::Inbound(inbound) => self.keep_inbound(&inbound, frame)?,
        })
    }

    /// A mail that waits stays. What became of mail is known for longer than any may wait: so none that comes up once
    /// more, when the rows are made anew, is taken for one that waits.
    fn keep_inbound(&self, inbound: &Inbound, frame: &Frame) -> ::sled::Result<Keep> {
        let horizon = self.retention.horizon(self.now);
        let (id, body_until) = match inbound {
            Inbound::Moved(moved) if moved.at >= horizon.min(self.now.before(EVIDENCE)) => {
                return Ok(Keep::All);
            }
            Inbound::Moved(_) => return Ok(Keep::Nothing),
            Inbound::Arrived(arrival) => match self.projection.inbound_mail(arrival.id)? {
                Some((mail, _)) if mail.leg == Leg::Waiting => return Ok(Keep::All),
                Some((mail, _)) if mail.leg == Leg::Delivered => {
                    (arrival.id, self.retention.bodies_horizon(self.now))
                }
                _ => (arrival.id, self.retention.events_horizon(self.now)),
            },
        };
        Ok(match id.timestamp() {
            came if came > body_until => Keep::All,
            came if came >= horizon && frame.body_length > 0 => Keep::Head,
            came if came >= horizon => Keep::All,
            _ => Keep::Nothing,
        })
    }

    fn keep_accepted(&self, id: TrackingId, frame: &Frame) -> ::sled::Result<Keep> {
        let has_body = frame.body_length > 0;
        let age = self.now.since(id.timestamp());
        match self.projection.send(id)? {
            Some((_, row)) if row.queued.is_some() || self.projection.is_sending(id)? => Ok(Keep::All),
            Some(_) if id.timestamp() > self.retention.bodies_horizon(self.now) => Ok(Keep::All),
            Some(_) if has_body => Ok(Keep::Head),
            Some(_) => Ok(Keep::All),
            // Nothing waits that long: give_up_after ends at 30 days.
            None if has_body && age < self.retention.ledger + LONGEST_WAIT => Ok(Keep::All),
            None if id.timestamp() >= self.retention.horizon(self.now) => Ok(Keep::All),
            None => Ok(Keep::Nothing),
        }
    }

    /// Takes a few rows out that are past retention. A send goes after its message has gone: its row is what says
    /// that the message may.
    fn forget(&self, upkeep: &mut Upkeep) -> Result<bool, UpkeepError> {
        if self.now < upkeep.next_round {
            return Ok(false);
        }
        let before = self.retention.ledger_horizon(self.now);
        let mut segments = HashMap::new();
        let mut is_gone = |place: Place, since: Timestamp| {
            let rewritten = segments.entry(place.segment).or_insert_with(|| {
                match Segment::open(&self.store.0.journal, place.segment, None) {
                    Ok(segment) => segment.rewritten().unwrap_or_default(),
                    Err(_) => self.now,
                }
            });
            *rewritten >= since
        };
        let (sends, next) = self.projection.expired_sends(upkeep.sends, before, SENDS, &mut is_gone)?;
        upkeep.sends = next;
        if !sends.is_empty() || next.is_some() {
            self.task(Task::Forget(sends, before))?;
            return Ok(true);
        }
        let days = self.projection.expired_days(self.retention.horizon(self.now), ROWS)?;
        let events = self.retention.events_horizon(self.now);
        let orphans = self.projection.expired_orphans(events, ROWS)?;
        let letters = self.projection.expired_letters(events, ROWS)?;
        let hints = self.projection.expired_hints(events, ROWS)?;
        let inbound = self.projection.expired_inbound(events, ROWS)?;
        let keys = [days, orphans, letters, hints, inbound].concat();
        if !keys.is_empty() {
            self.task(Task::Delete(keys))?;
            return Ok(true);
        }
        let before = self.retention.horizon(self.now).min(self.now.before(EVIDENCE));
        let dossiers = self.projection.expired_dossiers(before, ROWS)?;
        if !dossiers.is_empty() {
            self.task(Task::ForgetDossiers(dossiers, before))?;
            return Ok(true);
        }
        upkeep.next_round = self.now.after(ROUND);
        self.committer.seal(ROUND);
        Ok(false)
    }

    /// Has the ledger thread do something, and waits until that is durable.
    fn task(&self, task: Task) -> Result<(), UpkeepError> {
        self.committer.task(task)?;
        let (answer, answered) = oneshot::channel();
        self.committer.task(Task::Checkpoint(answer))?;
        Ok(answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))?)
    }

    /// Builds the projection anew when its files have grown past three times its rows: sled gives no space back.
    fn rebuild(&self, upkeep: &mut Upkeep) -> Result<bool, UpkeepError> {
        let size = self.projection.size()?;
        let grown = size >= upkeep.measure_at;
        if size < SMALL || (!grown && self.now < upkeep.next_measure) {
            return Ok(false);
        }
        (upkeep.measure_at, upkeep.next_measure) = (size + size / 4, self.now.after(SETTLED));
        let live = self.projection.live_bytes()?;
        let normal = (live as f64 * upkeep.overhead * 1.5) as u64;
        if size <= (live * GROWN).max(normal) {
            return Ok(false);
        }
        tracing::info!(size, live, "the ledger has grown and is built anew from the journal");
        let until = self.projection.position()?.unwrap_or_default();
        let (fresh, report) = self.store.built(until, &mut |_| {})?;
        if !report.damaged.is_empty() {
            discard(fresh);
            tracing::error!(
                damaged = report.damaged.len(),
                "the ledger has grown and stays as it is: the journal is damaged, and a new one would know less; \
                 `mailtrail store verify` names the places, `store rebuild` makes one all the same"
            );
            return Ok(false);
        }
        upkeep.overhead = fresh.size()? as f64 / live.max(1) as f64;
        self.committer.task(Task::Replace(Box::new(fresh)))?;
        Ok(false)
    }
}

/// Age at which soft bounces and removals need not be known any more: longer than any of them counts, or any event takes
/// to come.
const EVIDENCE: Duration = Duration::from_secs(90 * 86_400);
/// Sends forgotten at a time.
const SENDS: usize = 100;
/// Rows of other kinds taken out at a time.
const ROWS: usize = 1000;
/// Time between two rounds, and age at which the segment that is written to is sealed.
const ROUND: Duration = Duration::from_secs(3600);
/// Time after which a segment is rewritten for little.
const SETTLED: Duration = Duration::from_secs(86_400);
/// Time between two looks at a segment that is past retention.
const AGAIN: Duration = Duration::from_secs(7 * 86_400);
/// Longest time that a message may wait, and more.
const LONGEST_WAIT: Duration = Duration::from_secs(31 * 86_400);
/// Bytes up to which a projection is left alone.
const SMALL: u64 = 64 << 20;
/// Times its rows that a projection may take.
const GROWN: u64 = 3;
