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

pub use backup::{BackupError, BackupReport};
pub use body::{MessageBody, SpillFile};
pub use compaction::MaintenanceError;
pub use disk_space::{FreeSpace, LOW_BYTES, LOW_INODES, RESERVED_BYTES, RESERVED_INODES};
pub use erase::{EraseError, ErasureMatches, ErasureRequest};
pub use group_commit::CommitError;
pub use log_reader::{LogCursor, LogEntry};
pub use message_locks::MessageLock;
pub use open::{OpenError, OpenReport};
pub use provider_events::{EventContent, EventState, StoredEvent};
pub use replay::Progress;
pub use retention::Retention;
pub use shortage::is_shortage;
pub use sink_cursor::{DelayedDelivery, SinkAck};
pub use stored_body::StoredBody;
pub use suppressions::AddressEvidence;
pub use verify::{CorruptRegion, VerifyReport};

use crate::compaction::CompactionState;
use crate::group_commit::{CommitOptions, CommitPipeline};
use crate::journal::{Disk, LocalDisk};
use crate::ledger::{Ledger, LedgerHandle};
use crate::message_locks::MessageLocks;
use crate::open::OpenOptions;
use crate::record::Record;
use crate::segment_cache::SegmentCache;
use crate::wakeup::Wakeup;
use bytes::Bytes;
use mailtrail_mail::{Clock, Lane, Mailbox, MessageId, Record as OdooRecord, Timestamp, TrackingId};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStarted, BreakerOverride, DeliveryStats, DuplicateSubmission,
    Message, PollCursor, ProviderEvent, QueueAction, QueueKey, ReceivedEvent, ReceivedHint, Recipient,
    ReportedRecipient, StatsGroup, Trail,
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
pub struct Store(Arc<StoreInner>);

struct StoreInner {
    journal_dir: PathBuf,
    ledger_dir: PathBuf,
    handle: Arc<LedgerHandle>,
    commit_pipeline: Option<CommitPipeline>,
    segment_cache: SegmentCache,
    disk: Arc<dyn Disk>,
    compaction: Mutex<CompactionState>,
    queue_wakeup: Wakeup,
    message_locks: MessageLocks,
    /// Where sinks are to begin again.
    rewind_requests: Mutex<BTreeMap<String, LogCursor>>,
    _lock: Arc<data_dir_lock::DataDirLock>,
}

/// A lookup failed: the disk does, or the projection is damaged.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// In the projection.
    #[error("the ledger cannot be read; `mailtrail store rebuild` makes it anew from the journal")]
    Ledger(#[source] ::sled::Error),
    /// The projection is closed, and why; it is opened again by itself.
    #[error("the ledger cannot be read now: {0}")]
    LedgerClosed(String),
    /// In the journal.
    #[error("the journal cannot be read")]
    Journal(#[from] std::io::Error),
}

impl ReadError {
    /// Whether the same may be read in a moment: for want of a descriptor, or while the ledger is closed.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::LedgerClosed(_) => true,
            Self::Journal(error) => shortage::is_shortage(error),
            Self::Ledger(error) => shortage::is_sled_shortage(error),
        }
    }
}

impl From<::sled::Error> for ReadError {
    fn from(error: ::sled::Error) -> Self {
        match error {
            // Only a closed projection says so.
            ::sled::Error::Unsupported(reason) => Self::LedgerClosed(reason),
            error => Self::Ledger(error),
        }
    }
}

/// The queue's mail of one lane that waits for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId {
    /// Its lane.
    pub lane: Lane,
    /// What it waits for.
    pub key: QueueKey,
}

/// What an audit of the rows found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Sends in the queue.
    pub queued: u64,
    /// Those of them that were accepted too long ago.
    pub overdue: Vec<TrackingId>,
    /// Attempts that began too long ago and have not ended.
    pub stuck: Vec<TrackingId>,
    /// What does not fit together.
    pub inconsistencies: Vec<Inconsistency>,
}

/// A send whose rows do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconsistency {
    /// It is open, and not in the queue.
    MissingFromQueue(TrackingId),
    /// It is in the queue where its row does not say so.
    UnexpectedInQueue(TrackingId),
    /// Its row cannot be read.
    Unreadable(TrackingId),
}

impl Inconsistency {
    /// Which send.
    pub const fn id(&self) -> TrackingId {
        match self {
            Self::MissingFromQueue(id) | Self::UnexpectedInQueue(id) | Self::Unreadable(id) => *id,
        }
    }
}

/// A send with what an attempt needs.
#[derive(Clone, Debug)]
pub struct DeliveryJob {
    /// The send.
    pub message: Message,
    /// All its recipients.
    pub recipients: Vec<Recipient>,
    /// Attempts made so far.
    pub attempts: u32,
    /// What it waits for, while it is open.
    pub queue_key: Option<QueueKey>,
    /// The message, or `None` when it is seen to be damaged on disk.
    pub body: Option<StoredBody>,
}

impl Store {
    /// Opens the store of a data directory for reading and writing.
    pub fn open(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        Self::open_with_progress(data_dir, clock, &mut |_| {})
    }

    /// The same; `progress` hears how far the replay of the journal is.
    pub fn open_with_progress(
        data_dir: &Path,
        clock: Clock,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, OpenReport), OpenError> {
        OpenOptions { data_dir, clock, writable: true, disk: Arc::<LocalDisk>::default(), on_progress }.open()
    }

    /// Opens it for lookups only; the journal is not written.
    pub fn open_read_only(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        OpenOptions {
            data_dir,
            clock,
            writable: false,
            disk: Arc::<LocalDisk>::default(),
            on_progress: &mut |_| {},
        }
        .open()
    }

    /// Keeps a send and its message.
    pub async fn put_message(
        &self,
        accepted: AcceptedMessage,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: false };
        self.commit_pipeline()?.commit(accepted.into(), message, wish).await
    }

    /// The same; lookups see it on return.
    pub async fn put_message_applied(
        &self,
        accepted: AcceptedMessage,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(accepted.into(), message, wish).await
    }

    /// Notes that a send was handed in again.
    pub async fn record_duplicate(&self, repeated: DuplicateSubmission) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: false };
        self.commit_pipeline()?.commit(Record::DuplicateSubmission(repeated), Bytes::new(), wish).await
    }

    /// Whether there is room for a message of `size` bytes; not knowing it is none.
    pub fn has_free_space(&self, size: u64) -> bool {
        if self.ledger_closed().is_some_and(|closed| closed.borrow().is_some()) {
            return false;
        }
        self.0.disk.free_space(&self.0.journal_dir).and_then(|free| free.check_available(size)).is_ok()
    }

    /// A place on the store's disk for the part of a message that is not to be held in memory. It may block.
    pub fn create_spill_file(&self) -> io::Result<SpillFile> {
        SpillFile::new(&self.0.journal_dir)
    }

    /// Notes that a message is about to be sent.
    pub async fn record_attempt_start(&self, begun: AttemptStarted) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: false };
        self.commit_pipeline()?.commit(Record::AttemptStarted(begun), Bytes::new(), wish).await
    }

    /// Notes what an attempt came to; lookups see it on return.
    pub async fn record_attempt_outcome(&self, outcome: AttemptOutcome) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: true };
        self.commit_pipeline()?.commit(Record::AttemptOutcome(outcome), Bytes::new(), wish).await
    }

    /// Notes what an operator wants of a send; lookups see it on return.
    pub async fn record_queue_action(&self, action: QueueAction) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::QueueAction(action), Bytes::new(), wish).await
    }

    /// Notes that an operator opened or closed a breaker; lookups see it on return.
    pub async fn set_breaker_override(&self, switch: BreakerOverride) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::BreakerOverride(switch), Bytes::new(), wish).await
    }

    /// Notes up to when a provider's events are all in; lookups see it on return. The last time counts.
    pub async fn set_poll_cursor(&self, polled: PollCursor) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: true };
        self.commit_pipeline()?.commit(Record::PollCursor(polled), Bytes::new(), wish).await
    }

    /// Keeps a provider's report in its raw form; it is joined to its send on return.
    pub async fn put_event(&self, notice: ReceivedEvent, raw: Bytes) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::ReceivedEvent(Box::new(notice)), raw, wish).await
    }

    /// Keeps a hint about a contact in its raw form; lookups see it on return. One that is known changes nothing.
    pub async fn put_hint(&self, hinted: ReceivedHint, raw: Bytes) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::ReceivedHint(Box::new(hinted)), raw, wish).await
    }

    /// Waits until everything committed is applied and survives a power cut without replay.
    pub async fn checkpoint(&self) {
        if let Some(committer) = &self.0.commit_pipeline {
            // An end of the threads is an end, too.
            let _ = committer.drain().await;
        }
    }

    /// Whether the threads that write journal and ledger still work: returns when both have answered, and the disk with
    /// them. That the ledger cannot be written now is an answer.
    pub async fn ping(&self) -> Result<(), CommitError> {
        match self.commit_pipeline()?.drain().await {
            Err(CommitError::Ledger(_)) => Ok(()),
            answered => answered,
        }
    }

    /// Follows why the ledger is closed, which it is while it cannot be written; `None` while it is open. Nothing where
    /// the store is open for reading.
    pub fn ledger_closed(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.commit_pipeline.as_ref().map(CommitPipeline::ledger_closed)
    }

    /// Waits until the ledger is open.
    pub async fn wait_ledger_open(&self) {
        if let Some(mut closed) = self.ledger_closed() {
            // Where its thread has ended, lookups say so.
            let _ = closed.wait_for(Option::is_none).await;
        }
    }

    /// Waits until the store can take nothing any more because the projection failed; says why.
    pub async fn wait_failed(&self) -> String {
        match &self.0.commit_pipeline {
            Some(committer) => committer.wait_failed().await,
            None => std::future::pending().await,
        }
    }

    /// Follows whether the journal can be written: why the last group of records was not, or `None`. Nothing where it is
    /// open for reading.
    pub fn write_errors(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.commit_pipeline.as_ref().map(CommitPipeline::write_errors)
    }

    /// Rings when there may be something due.
    pub fn queue_wakeup(&self) -> &Wakeup {
        &self.0.queue_wakeup
    }

    /// Returns when the ledger is not just being written, which keeps its readers and their threads waiting for some ms.
    pub async fn wait_idle(&self) {
        if let Ok(projection) = self.ledger() {
            projection.wait_idle().await;
        }
    }

    /// The queues that hold mail, those of the first lane first.
    pub fn queue_ids(&self) -> Result<Vec<QueueId>, ReadError> {
        Ok(self.ledger()?.queue_ids()?)
    }

    /// Takes sends of a queue into the caller's hands that are due by `now` and in nobody's, at most `limit`; and says
    /// when the next one behind them is due.
    pub fn lock_due(
        &self,
        queue: &QueueId,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<MessageLock>, Option<Timestamp>), ReadError> {
        let mut taken = Vec::new();
        let free = |id| {
            let held = self.0.message_locks.try_lock(id);
            let free = held.is_some();
            taken.extend(held);
            free
        };
        let (_, next) = self.ledger()?.due_messages(queue, now, limit, free)?;
        Ok((taken, next))
    }

    /// Takes a send into the caller's hands, unless it is in somebody's: nobody else tries or changes it then.
    pub fn try_lock(&self, id: TrackingId) -> Option<MessageLock> {
        self.0.message_locks.try_lock(id)
    }

    /// Looks at all that waits: sends accepted before `accepted`, attempts begun before `begun`, and places in the queue
    /// that should not be. It reads every row of the queue.
    pub fn check_queue(&self, accepted: Timestamp, begun: Timestamp) -> Result<CheckReport, ReadError> {
        let projection = self.ledger()?;
        let mut audit = CheckReport::default();
        projection.check_queue(accepted, &mut audit)?;
        let interrupted = projection.interrupted_attempts()?.into_iter();
        audit.stuck = interrupted.filter(|cut| cut.at < begun).map(|cut| cut.id).collect();
        Ok(audit)
    }

    /// Looks whether `limit` sends behind `from` are in the queue where they should be, and says where to go on: `None`
    /// at the end.
    pub fn check_messages(
        &self,
        from: Option<TrackingId>,
        limit: usize,
    ) -> Result<(CheckReport, Option<TrackingId>), ReadError> {
        let mut audit = CheckReport::default();
        let next = self.ledger()?.check_messages(from, limit, &mut audit)?;
        Ok((audit, next))
    }

    /// What an attempt needs, or `None` for an unknown send.
    pub fn load_job(&self, id: TrackingId) -> Result<Option<DeliveryJob>, ReadError> {
        let projection = self.ledger()?;
        let Some((send, row)) = projection.load_message(id)? else { return Ok(None) };
        let recipients = projection.load_recipients(id, &row)?;
        let body = match self.0.segment_cache.get_or_open(row.position.segment) {
            Ok(segment) => StoredBody::load(segment, row.position.offset)?,
            // Nothing of it was needed any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let queue_key = row.queue_entry.map(|queued| queued.queue_key.into());
        Ok(Some(DeliveryJob { message: send, recipients, attempts: row.attempts, queue_key, body }))
    }

    /// One send.
    pub fn load_message(&self, id: TrackingId) -> Result<Option<Message>, ReadError> {
        Ok(self.ledger()?.load_message(id)?.map(|(send, _)| send))
    }

    /// Sends whose attempt was cut off by the end of the process.
    pub fn interrupted_attempts(&self) -> Result<Vec<AttemptStarted>, ReadError> {
        Ok(self.ledger()?.interrupted_attempts()?)
    }

    /// Whether an attempt sends it right now, or was cut off and its end is not noted yet.
    pub fn is_sending(&self, id: TrackingId) -> Result<bool, ReadError> {
        Ok(self.ledger()?.is_sending(id)?)
    }

    /// What a send waits for, while it is open.
    pub fn queue_key(&self, id: TrackingId) -> Result<Option<QueueKey>, ReadError> {
        let row = self.ledger()?.load_message(id)?.and_then(|(_, row)| row.queue_entry);
        Ok(row.map(|queued| queued.queue_key.into()))
    }

    /// Everything about one send.
    pub fn load_trail(&self, id: TrackingId) -> Result<Option<Trail>, ReadError> {
        Ok(self.ledger()?.load_trail(id)?)
    }

    /// The open sends, the earliest due first.
    pub fn queued_ids(&self, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        let projection = self.ledger()?;
        let mut queued = Vec::new();
        for queue in projection.queue_ids()? {
            queued.extend(projection.queued_messages(&queue, |_| true, limit)?);
        }
        queued.sort_unstable();
        Ok(queued.into_iter().map(|(_, id)| id).take(limit).collect())
    }

    /// The sends of a queue that were accepted at a time that `wanted` asks for.
    pub fn queued_by_acceptance(
        &self,
        queue: &QueueId,
        wanted: impl Fn(Timestamp) -> bool,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        let queued = self.ledger()?.queued_messages(queue, |id| wanted(id.timestamp()), limit)?;
        Ok(queued.into_iter().map(|(_, id)| id).collect())
    }

    /// The sends of a queue that began to wait at a time that is still to come, because the clock was ahead: at most
    /// `limit`, each with how long it was to wait.
    pub fn queued_in_future(
        &self,
        queue: &QueueId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(TrackingId, Duration)>, ReadError> {
        Ok(self.ledger()?.queued_in_future(queue, now, limit)?)
    }

    /// When the last send was accepted.
    pub fn newest_acceptance(&self) -> Result<Option<Timestamp>, ReadError> {
        let last = TrackingId::new(Timestamp::from_millis((1 << 48) - 1), u128::MAX);
        let newest = self.ids_in_range(TrackingId::new(Timestamp::default(), 0), last, 1)?;
        Ok(newest.first().map(|newest| newest.timestamp()))
    }

    /// Why an operator keeps the breaker of an upstream open, if that is so.
    pub fn breaker_override(&self, upstream: &str) -> Result<Option<String>, ReadError> {
        Ok(self.ledger()?.breaker_override(upstream)?)
    }

    /// Up to when the events of an upstream's provider are all in, as far as it was ever asked.
    pub fn poll_cursor(&self, upstream: &str) -> Result<Option<Timestamp>, ReadError> {
        Ok(self.ledger()?.poll_cursor(upstream)?)
    }

    /// Recipients that an upstream took on `days` (UTC, since the epoch), as far as the ledger goes back.
    pub fn relayed_count(&self, upstream: &str, days: RangeInclusive<u16>) -> Result<u64, ReadError> {
        Ok(self.ledger()?.relayed_count(upstream, days)?)
    }

    /// Sends with that Message-ID, newest first.
    pub fn find_by_message_id(
        &self,
        message_id: &MessageId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.find_by_message_id(message_id, limit)?)
    }

    /// Whether a newer send of the same message went to that recipient: a client sent it again, with its Message-ID.
    pub fn is_resubmitted(&self, send: &Message, recipient: &Mailbox) -> Result<bool, ReadError> {
        Ok(self.ledger()?.is_resubmitted(send, recipient)?)
    }

    /// Sends to that recipient, newest first.
    pub fn find_by_recipient(&self, address: &str, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.find_by_recipient(address, limit)?)
    }

    /// Sends about that record of Odoo's, newest first.
    pub fn find_by_odoo_record(
        &self,
        record: &OdooRecord,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.find_by_odoo_record(record, limit)?)
    }

    /// Of the newest `searched` sends those whose subject contains `part`, in upper or lower case, newest first, at most
    /// `limit`; and whether the search ended before the oldest send.
    pub fn find_by_subject(
        &self,
        part: &str,
        limit: usize,
        searched: usize,
    ) -> Result<(Vec<TrackingId>, bool), ReadError> {
        Ok(self.ledger()?.find_by_subject(part, limit, searched)?)
    }

    /// Sends with ids from `low` to `high`, newest first.
    pub fn ids_in_range(
        &self,
        low: TrackingId,
        high: TrackingId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.ids_in_range(low, high, limit)?)
    }

    /// Counts the recipients of all sends accepted from `since` to `until`: all of them, and in groups. It reads every
    /// send of that time.
    pub fn delivery_stats(
        &self,
        since: Timestamp,
        until: Timestamp,
        grouping: StatsGroup,
    ) -> Result<(DeliveryStats, BTreeMap<String, DeliveryStats>), ReadError> {
        Ok(self.ledger()?.delivery_stats(since, until, grouping)?)
    }

    /// The users whose mail was accepted in `period`, each with an address it came from and when it did so last. It reads
    /// every send of that time.
    pub fn logins(
        &self,
        period: Range<Timestamp>,
    ) -> Result<BTreeMap<(IpAddr, String), Timestamp>, ReadError> {
        Ok(self.ledger()?.logins(period)?)
    }

    /// Recipients of the sends that were accepted in `period`, by the user who handed them in. It reads every send of
    /// that time.
    pub fn submitted_by_user(&self, period: Range<Timestamp>) -> Result<BTreeMap<String, u64>, ReadError> {
        Ok(self.ledger()?.submitted_by_user(period)?)
    }

    /// Reports to senders that are to be made, at most `limit`.
    pub fn pending_dsns(&self, limit: usize) -> Result<Vec<ReportedRecipient>, ReadError> {
        Ok(self.ledger()?.pending_dsns(limit)?)
    }

    /// Whether this event was taken already.
    pub fn has_event(&self, upstream: &str, event: &ProviderEvent) -> Result<bool, ReadError> {
        Ok(self.ledger()?.has_event(upstream, event)?)
    }

    /// Whether this hint was taken already.
    pub fn has_hint(&self, hinted: &ReceivedHint) -> Result<bool, ReadError> {
        Ok(self.ledger()?.has_hint(hinted)?)
    }

    /// Hints about the contact with that address, the last to come first.
    pub fn find_hints(&self, address: &str, limit: usize) -> Result<Vec<ReceivedHint>, ReadError> {
        Ok(self.ledger()?.find_hints(address, limit)?)
    }

    /// The digest of the body that a webhook's token came with, if it was used.
    pub fn webhook_token(
        &self,
        upstream: &str,
        token: &str,
        signed_at: Timestamp,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.ledger()?.webhook_token(upstream, token, signed_at)?)
    }

    fn commit_pipeline(&self) -> Result<&CommitPipeline, CommitError> {
        self.0.commit_pipeline.as_ref().ok_or(CommitError::ReadOnly)
    }

    /// An error while the ledger is closed.
    fn ledger(&self) -> ::sled::Result<Arc<Ledger>> {
        self.0.handle.load()
    }
}
