//! What mailtrail keeps: the journal is the truth, the projection answers questions.
//!
//! A verb is one durable commit: when it returns `Ok` its record is on stable storage, when it fails the record will
//! never be read. One thread writes the journal and serves many writers with one sync; another applies what was
//! written to the projection. A store belongs to one process.

mod backup;
mod body;
mod compaction;
mod data_dir_lock;
mod disk_space;
mod erase;
mod group_commit;
mod journal;
mod journal_thread;
mod ledger;
mod ledger_thread;
mod log_reader;
mod message_locks;
mod open;
#[cfg(test)]
mod power_cut;
mod provider_events;
mod rebuild;
mod record;
mod replay;
mod retention;
mod segment_cache;
mod shortage;
mod sink_cursor;
mod stored_body;
mod suppressions;
mod usage;
mod verify;
mod wakeup;

pub use backup::{BackedUp, BackupError};
pub use body::{Message, Spill};
pub use compaction::UpkeepError;
pub use disk_space::{FEW_INODES, Free, LEFT_FREE, LEFT_INODES, LOW};
pub use erase::{EraseError, Erasing, Mentioned};
pub use group_commit::CommitError;
pub use log_reader::{Cursor, Entry};
pub use message_locks::Grip;
pub use open::{OpenError, OpenReport};
pub use provider_events::{Content, Report, Stand};
pub use replay::Progress;
pub use retention::Retention;
pub use shortage::is_shortage;
pub use sink_cursor::{Delayed, Handed};
pub use stored_body::Stored;
pub use suppressions::Filed;
pub use verify::{Hole, Verified};

use crate::compaction::Upkeep;
use crate::group_commit::{Committer, Wish};
use crate::journal::{Disk, LocalDisk};
use crate::ledger::{Current, Projection};
use crate::message_locks::Hands;
use crate::open::Opening;
use crate::record::Record;
use crate::segment_cache::Segments;
use crate::wakeup::Wakeup;
use bytes::Bytes;
use mailtrail_mail::{Clock, Lane, Mailbox, MessageId, Record as OdooRecord, Timestamp, TrackingId};
use mailtrail_trail::{
    About, Accepted, Action, Begun, Event, Grouping, Hinted, Notice, Outcome, Polled, Recipient, Repeated,
    Send, Switch, Tally, Trail, Waits,
};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The store of one data directory.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    journal: PathBuf,
    ledger: PathBuf,
    current: Arc<Current>,
    committer: Option<Committer>,
    segments: Segments,
    disk: Arc<dyn Disk>,
    upkeep: Mutex<Upkeep>,
    due: Wakeup,
    hands: Hands,
    /// Where sinks are to begin again.
    rewinds: Mutex<BTreeMap<String, Cursor>>,
    _lock: Arc<data_dir_lock::Lock>,
}

/// A lookup failed: the disk does, or the projection is damaged.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// In the projection.
    #[error("the ledger cannot be read; `mailtrail store rebuild` makes it anew from the journal")]
    Projection(#[source] ::sled::Error),
    /// The projection is closed, and why; it is opened again by itself.
    #[error("the ledger cannot be read now: {0}")]
    Closed(String),
    /// In the journal.
    #[error("the journal cannot be read")]
    Journal(#[from] std::io::Error),
}

impl ReadError {
    /// Whether the same may be read in a moment: for want of a descriptor, or while the ledger is closed.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Closed(_) => true,
            Self::Journal(error) => shortage::is_shortage(error),
            Self::Projection(error) => shortage::is_shortage_of_sled(error),
        }
    }
}

impl From<::sled::Error> for ReadError {
    fn from(error: ::sled::Error) -> Self {
        match error {
            // Only a closed projection says so.
            ::sled::Error::Unsupported(reason) => Self::Closed(reason),
            error => Self::Projection(error),
        }
    }
}

/// The queue's mail of one lane that waits for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queued {
    /// Its lane.
    pub lane: Lane,
    /// What it waits for.
    pub waits: Waits,
}

/// What an audit of the rows found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Sends in the queue.
    pub queued: u64,
    /// Those of them that were accepted too long ago.
    pub overdue: Vec<TrackingId>,
    /// Attempts that began too long ago and have not ended.
    pub stuck: Vec<TrackingId>,
    /// What does not fit together.
    pub strays: Vec<Stray>,
}

/// A send whose rows do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// It is open, and not in the queue.
    Forgotten(TrackingId),
    /// It is in the queue where its row does not say so.
    InTheQueue(TrackingId),
    /// Its row cannot be read.
    Unreadable(TrackingId),
}

impl Stray {
    /// Which send.
    pub const fn id(&self) -> TrackingId {
        match self {
            Self::Forgotten(id) | Self::InTheQueue(id) | Self::Unreadable(id) => *id,
        }
    }
}

/// A send with what an attempt needs.
#[derive(Clone, Debug)]
pub struct Job {
    /// The send.
    pub send: Send,
    /// All its recipients.
    pub recipients: Vec<Recipient>,
    /// Attempts made so far.
    pub attempts: u32,
    /// What it waits for, while it is open.
    pub waits: Option<Waits>,
    /// The message, or `None` when it is seen to be damaged on disk.
    pub message: Option<Stored>,
}

impl Store {
    /// Opens the store of a data directory for reading and writing.
    pub fn open(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        Self::open_watched(data_dir, clock, &mut |_| {})
    }

    /// The same; `progress` hears how far the replay of the journal is.
    pub fn open_watched(
        data_dir: &Path,
        clock: Clock,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, OpenReport), OpenError> {
        Opening { data_dir, clock, writing: true, disk: Arc::<LocalDisk>::default(), progress }.open()
    }

    /// Opens it for lookups only; the journal is not written.
    pub fn open_for_reading(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        Opening { data_dir, clock, writing: false, disk: Arc::<LocalDisk>::default(), progress: &mut |_| {} }
            .open()
    }

    /// Keeps a send and its message.
    pub async fn accept(&self, accepted: Accepted, message: impl Into<Message>) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: false };
        self.committer()?.commit(accepted.into(), message, wish).await
    }

    /// The same; lookups see it on return.
    pub async fn accept_and_apply(
        &self,
        accepted: Accepted,
        message: impl Into<Message>,
    ) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(accepted.into(), message, wish).await
    }

    /// Notes that a send was handed in again.
    pub async fn repeat(&self, repeated: Repeated) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: false };
        self.committer()?.commit(Record::Repeated(repeated), Bytes::new(), wish).await
    }

    /// Whether there is room for a message of `size` bytes; not knowing it is none.
    pub fn has_room(&self, size: u64) -> bool {
        if self.closed().is_some_and(|closed| closed.borrow().is_some()) {
            return false;
        }
        self.0.disk.free(&self.0.journal).and_then(|free| free.admit(size)).is_ok()
    }

    /// A place on the store's disk for the part of a message that is not to be held in memory. It may block.
    pub fn spill(&self) -> io::Result<Spill> {
        Spill::new(&self.0.journal)
    }

    /// Notes that a message is about to be sent.
    pub async fn begin(&self, begun: Begun) -> Result<(), CommitError> {
        let wish = Wish { urgent: false, applied: false };
        self.committer()?.commit(Record::Begun(begun), Bytes::new(), wish).await
    }

    /// Notes what an attempt came to; lookups see it on return.
    pub async fn settle(&self, outcome: Outcome) -> Result<(), CommitError> {
        let wish = Wish { urgent: false, applied: true };
        self.committer()?.commit(Record::Outcome(outcome), Bytes::new(), wish).await
    }

    /// Notes what an operator wants of a send; lookups see it on return.
    pub async fn act(&self, action: Action) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Action(action), Bytes::new(), wish).await
    }

    /// Notes that an operator opened or closed a breaker; lookups see it on return.
    pub async fn switch(&self, switch: Switch) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Switch(switch), Bytes::new(), wish).await
    }

    /// Notes up to when a provider's events are all in; lookups see it on return. The last time counts.
    pub async fn polled(&self, polled: Polled) -> Result<(), CommitError> {
        let wish = Wish { urgent: false, applied: true };
        self.committer()?.commit(Record::Polled(polled), Bytes::new(), wish).await
    }

    /// Keeps a provider's report in its raw form; it is joined to its send on return.
    pub async fn report(&self, notice: Notice, raw: Bytes) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Notice(Box::new(notice)), raw, wish).await
    }

    /// Keeps a hint about a contact in its raw form; lookups see it on return. One that is known changes nothing.
    pub async fn hint(&self, hinted: Hinted, raw: Bytes) -> Result<(), CommitError> {
        let wish = Wish { urgent: true, applied: true };
        self.committer()?.commit(Record::Hint(Box::new(hinted)), raw, wish).await
    }

    /// Waits until everything committed is applied and survives a power cut without replay.
    pub async fn settle_down(&self) {
        if let Some(committer) = &self.0.committer {
            // An end of the threads is an end, too.
            let _ = committer.drain().await;
        }
    }

    /// Whether the threads that write journal and ledger still work: returns when both have answered, and the disk with
    /// them. That the ledger cannot be written now is an answer.
    pub async fn answers(&self) -> Result<(), CommitError> {
        match self.committer()?.drain().await {
            Err(CommitError::Ledger(_)) => Ok(()),
            answered => answered,
        }
    }

    /// Follows why the ledger is closed, which it is while it cannot be written; `None` while it is open. Nothing where
    /// the store is open for reading.
    pub fn closed(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.committer.as_ref().map(Committer::closed)
    }

    /// Waits until the ledger is open.
    pub async fn opened(&self) {
        if let Some(mut closed) = self.closed() {
            // Where its thread has ended, lookups say so.
            let _ = closed.wait_for(Option::is_none).await;
        }
    }

    /// Waits until the store can take nothing any more because the projection failed; says why.
    pub async fn failed(&self) -> String {
        match &self.0.committer {
            Some(committer) => committer.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Follows whether the journal can be written: why the last group of records was not, or `None`. Nothing where it is
    /// open for reading.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.committer.as_ref().map(Committer::trouble)
    }

    /// Rings when there may be something due.
    pub fn due_bell(&self) -> &Wakeup {
        &self.0.due
    }

    /// Returns when the ledger is not just being written, which keeps its readers and their threads waiting for some ms.
    pub async fn at_rest(&self) {
        if let Ok(projection) = self.projection() {
            projection.at_rest().await;
        }
    }

    /// The queues that hold mail, those of the first lane first.
    pub fn queues(&self) -> Result<Vec<Queued>, ReadError> {
        Ok(self.projection()?.queues()?)
    }

    /// Takes sends of a queue into the caller's hands that are due by `now` and in nobody's, at most `limit`; and says
    /// when the next one behind them is due.
    pub fn take_due(
        &self,
        queue: &Queued,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<Grip>, Option<Timestamp>), ReadError> {
        let mut taken = Vec::new();
        let free = |id| {
            let held = self.0.hands.take(id);
            let free = held.is_some();
            taken.extend(held);
            free
        };
        let (_, next) = self.projection()?.due(queue, now, limit, free)?;
        Ok((taken, next))
    }

    /// Takes a send into the caller's hands, unless it is in somebody's: nobody else tries or changes it then.
    pub fn take(&self, id: TrackingId) -> Option<Grip> {
        self.0.hands.take(id)
    }

    /// Looks at all that waits: sends accepted before `accepted`, attempts begun before `begun`, and places in the queue
    /// that should not be. It reads every row of the queue.
    pub fn audit_queue(&self, accepted: Timestamp, begun: Timestamp) -> Result<Audit, ReadError> {
        let projection = self.projection()?;
        let mut audit = Audit::default();
        projection.audit_queue(accepted, &mut audit)?;
        let interrupted = projection.interrupted()?.into_iter();
        audit.stuck = interrupted.filter(|cut| cut.at < begun).map(|cut| cut.id).collect();
        Ok(audit)
    }

    /// Looks whether `limit` sends behind `from` are in the queue where they should be, and says where to go on: `None`
    /// at the end.
    pub fn audit_sends(
        &self,
        from: Option<TrackingId>,
        limit: usize,
    ) -> Result<(Audit, Option<TrackingId>), ReadError> {
        let mut audit = Audit::default();
        let next = self.projection()?.audit_sends(from, limit, &mut audit)?;
        Ok((audit, next))
    }

    /// What an attempt needs, or `None` for an unknown send.
    pub fn job(&self, id: TrackingId) -> Result<Option<Job>, ReadError> {
        let projection = self.projection()?;
        let Some((send, row)) = projection.send(id)? else { return Ok(None) };
        let recipients = projection.recipients(id, &row)?;
        let message = match self.0.segments.segment(row.place.segment) {
            Ok(segment) => Stored::find(segment, row.place.offset)?,
            // Nothing of it was needed any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let waits = row.queued.map(|queued| queued.waits.into());
        Ok(Some(Job { send, recipients, attempts: row.attempts, waits, message }))
    }

    /// One send.
    pub fn send(&self, id: TrackingId) -> Result<Option<Send>, ReadError> {
        Ok(self.projection()?.send(id)?.map(|(send, _)| send))
    }

    /// Sends whose attempt was cut off by the end of the process.
    pub fn interrupted(&self) -> Result<Vec<Begun>, ReadError> {
        Ok(self.projection()?.interrupted()?)
    }

    /// Whether an attempt sends it right now, or was cut off and its end is not noted yet.
    pub fn is_sending(&self, id: TrackingId) -> Result<bool, ReadError> {
        Ok(self.projection()?.is_sending(id)?)
    }

    /// What a send waits for, while it is open.
    pub fn waits(&self, id: TrackingId) -> Result<Option<Waits>, ReadError> {
        let row = self.projection()?.send(id)?.and_then(|(_, row)| row.queued);
        Ok(row.map(|queued| queued.waits.into()))
    }

    /// Everything about one send.
    pub fn trail(&self, id: TrackingId) -> Result<Option<Trail>, ReadError> {
        Ok(self.projection()?.trail(id)?)
    }

    /// The open sends, the earliest due first.
    pub fn queued(&self, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        let projection = self.projection()?;
        let mut queued = Vec::new();
        for queue in projection.queues()? {
            queued.extend(projection.queued(&queue, |_| true, limit)?);
        }
        queued.sort_unstable();
        Ok(queued.into_iter().map(|(_, id)| id).take(limit).collect())
    }

    /// The sends of a queue that were accepted at a time that `wanted` asks for.
    pub fn queued_since(
        &self,
        queue: &Queued,
        wanted: impl Fn(Timestamp) -> bool,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        let queued = self.projection()?.queued(queue, |id| wanted(id.timestamp()), limit)?;
        Ok(queued.into_iter().map(|(_, id)| id).collect())
    }

    /// The sends of a queue that began to wait at a time that is still to come, because the clock was ahead: at most
    /// `limit`, each with how long it was to wait.
    pub fn queued_ahead(
        &self,
        queue: &Queued,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(TrackingId, Duration)>, ReadError> {
        Ok(self.projection()?.ahead(queue, now, limit)?)
    }

    /// When the last send was accepted.
    pub fn newest(&self) -> Result<Option<Timestamp>, ReadError> {
        let last = TrackingId::new(Timestamp::from_millis((1 << 48) - 1), u128::MAX);
        let newest = self.between(TrackingId::new(Timestamp::default(), 0), last, 1)?;
        Ok(newest.first().map(|newest| newest.timestamp()))
    }

    /// Why an operator keeps the breaker of an upstream open, if that is so.
    pub fn forced_open(&self, upstream: &str) -> Result<Option<String>, ReadError> {
        Ok(self.projection()?.forced_open(upstream)?)
    }

    /// Up to when the events of an upstream's provider are all in, as far as it was ever asked.
    pub fn polled_until(&self, upstream: &str) -> Result<Option<Timestamp>, ReadError> {
        Ok(self.projection()?.polled_until(upstream)?)
    }

    /// Recipients that an upstream took on `days` (UTC, since the epoch), as far as the ledger goes back.
    pub fn taken(&self, upstream: &str, days: RangeInclusive<u16>) -> Result<u64, ReadError> {
        Ok(self.projection()?.taken(upstream, days)?)
    }

    /// Sends with that Message-ID, newest first.
    pub fn by_message_id(&self, message_id: &MessageId, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.projection()?.by_message_id(message_id, limit)?)
    }

    /// Whether a newer send of the same message went to that recipient: a client sent it again, with its Message-ID.
    pub fn is_sent_again(&self, send: &Send, recipient: &Mailbox) -> Result<bool, ReadError> {
        Ok(self.projection()?.is_sent_again(send, recipient)?)
    }

    /// Sends to that recipient, newest first.
    pub fn by_recipient(&self, address: &str, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.projection()?.by_recipient(address, limit)?)
    }

    /// Sends about that record of Odoo's, newest first.
    pub fn by_record(&self, record: &OdooRecord, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.projection()?.by_record(record, limit)?)
    }

    /// Of the newest `searched` sends those whose subject contains `part`, in upper or lower case, newest first, at most
    /// `limit`; and whether the search ended before the oldest send.
    pub fn by_subject(
        &self,
        part: &str,
        limit: usize,
        searched: usize,
    ) -> Result<(Vec<TrackingId>, bool), ReadError> {
        Ok(self.projection()?.by_subject(part, limit, searched)?)
    }

    /// Sends with ids from `low` to `high`, newest first.
    pub fn between(
        &self,
        low: TrackingId,
        high: TrackingId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.projection()?.between(low, high, limit)?)
    }

    /// Counts the recipients of all sends accepted from `since` to `until`: all of them, and in groups. It reads every
    /// send of that time.
    pub fn tally(
        &self,
        since: Timestamp,
        until: Timestamp,
        grouping: Grouping,
    ) -> Result<(Tally, BTreeMap<String, Tally>), ReadError> {
        Ok(self.projection()?.tally(since, until, grouping)?)
    }

    /// The users whose mail was accepted in `period`, each with an address it came from and when it did so last. It reads
    /// every send of that time.
    pub fn logins(
        &self,
        period: Range<Timestamp>,
    ) -> Result<BTreeMap<(IpAddr, String), Timestamp>, ReadError> {
        Ok(self.projection()?.logins(period)?)
    }

    /// Recipients of the sends that were accepted in `period`, by the user who handed them in. It reads every send of
    /// that time.
    pub fn handed_in(&self, period: Range<Timestamp>) -> Result<BTreeMap<String, u64>, ReadError> {
        Ok(self.projection()?.handed_in(period)?)
    }

    /// Reports to senders that are to be made, at most `limit`.
    pub fn unreported(&self, limit: usize) -> Result<Vec<About>, ReadError> {
        Ok(self.projection()?.unreported(limit)?)
    }

    /// Whether this event was taken already.
    pub fn knows_event(&self, upstream: &str, event: &Event) -> Result<bool, ReadError> {
        Ok(self.projection()?.knows_event(upstream, event)?)
    }

    /// Whether this hint was taken already.
    pub fn knows_hint(&self, hinted: &Hinted) -> Result<bool, ReadError> {
        Ok(self.projection()?.knows_hint(hinted)?)
    }

    /// Hints about the contact with that address, the last to come first.
    pub fn hints(&self, address: &str, limit: usize) -> Result<Vec<Hinted>, ReadError> {
        Ok(self.projection()?.hints(address, limit)?)
    }

    /// The digest of the body that a webhook's token came with, if it was used.
    pub fn token(
        &self,
        upstream: &str,
        token: &str,
        signed_at: Timestamp,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.projection()?.token(upstream, token, signed_at)?)
    }

    fn committer(&self) -> Result<&Committer, CommitError> {
        self.0.committer.as_ref().ok_or(CommitError::ReadOnly)
    }

    /// An error while the ledger is closed.
    fn projection(&self) -> ::sled::Result<Arc<Projection>> {
        self.0.current.projection()
    }
}
