//! Durable storage: the journal is the source of truth, the ledger is a projection that serves lookups.
//!
//! Each write method is one durable commit. After `Ok` its record is on stable storage; after an error the
//! record is never read. One thread writes the journal and covers many writers with one sync. Another applies
//! the written records to the ledger. A store belongs to one process.

mod backup;
mod body;
mod compaction;
mod data_dir_lock;
mod disk_space;
mod erase;
#[cfg(test)]
#[path = "../../../tests/golden/check.rs"]
mod golden;
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
pub use replay::ReplayProgress;
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
use mailtrail_mail::{Clock, Lane, Mailbox, MessageId, OdooRecord, Timestamp, TrackingId};
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

/// Store of one data directory.
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
    /// Position from which each named sink must read again.
    rewind_requests: Mutex<BTreeMap<String, LogCursor>>,
    _lock: Arc<data_dir_lock::DataDirLock>,
}

/// Failed lookup: a disk error or a damaged ledger.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Error of the ledger.
    #[error("the ledger cannot be read; `mailtrail store rebuild` makes it anew from the journal")]
    Ledger(#[source] ::sled::Error),
    /// The ledger is closed, with the reason; it reopens automatically.
    #[error("the ledger cannot be read now: {0}")]
    LedgerClosed(String),
    /// Error of the journal.
    #[error("the journal cannot be read")]
    Journal(#[from] std::io::Error),
}

impl ReadError {
    /// Returns whether the read may succeed later: no file descriptor is free, or the ledger is closed.
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
            // Only a closed ledger returns this error.
            ::sled::Error::Unsupported(reason) => Self::LedgerClosed(reason),
            error => Self::Ledger(error),
        }
    }
}

/// Queued messages of one lane that wait for the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId {
    /// Lane.
    pub lane: Lane,
    /// Upstream or condition that the messages wait for.
    pub key: QueueKey,
}

/// Result of a consistency check of the ledger's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Number of queued messages.
    pub queued: u64,
    /// Queued messages that were accepted before the given limit.
    pub overdue: Vec<TrackingId>,
    /// Attempts that began before the given limit and have not ended.
    pub stuck: Vec<TrackingId>,
    /// Messages with contradictory rows.
    pub inconsistencies: Vec<Inconsistency>,
}

/// A message with contradictory rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconsistency {
    /// Open message without a queue row.
    MissingFromQueue(TrackingId),
    /// Queue row that the message's row does not refer to.
    UnexpectedInQueue(TrackingId),
    /// Message row that cannot be decoded.
    Unreadable(TrackingId),
}

impl Inconsistency {
    /// Returns the message's tracking id.
    pub const fn id(&self) -> TrackingId {
        match self {
            Self::MissingFromQueue(id) | Self::UnexpectedInQueue(id) | Self::Unreadable(id) => *id,
        }
    }
}

/// A message with all data that an attempt needs.
#[derive(Clone, Debug)]
pub struct DeliveryJob {
    /// The message's metadata.
    pub message: Message,
    /// All recipients.
    pub recipients: Vec<Recipient>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Queue of the message while it is open.
    pub queue_key: Option<QueueKey>,
    /// Body, or `None` if it is found to be damaged on disk.
    pub body: Option<StoredBody>,
}

impl Store {
    /// Opens the store of a data directory for reading and writing.
    pub fn open(data_dir: &Path, clock: Clock) -> Result<(Self, OpenReport), OpenError> {
        Self::open_with_progress(data_dir, clock, &mut |_| {})
    }

    /// Opens the store like [`Self::open`] and reports the progress of the journal replay to `progress`.
    pub fn open_with_progress(
        data_dir: &Path,
        clock: Clock,
        on_progress: &mut dyn FnMut(ReplayProgress),
    ) -> Result<(Self, OpenReport), OpenError> {
        OpenOptions { data_dir, clock, writable: true, disk: Arc::<LocalDisk>::default(), on_progress }.open()
    }

    /// Opens the store for lookups only; the journal is not written.
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

    /// Stores a message and its body.
    pub async fn put_message(
        &self,
        accepted: AcceptedMessage,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: false };
        self.commit_pipeline()?.commit(accepted.into(), message, wish).await
    }

    /// Stores a message like [`Self::put_message`]; lookups see it on return.
    pub async fn put_message_applied(
        &self,
        accepted: AcceptedMessage,
        message: impl Into<MessageBody>,
    ) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(accepted.into(), message, wish).await
    }

    /// Records that a client submitted a message again.
    pub async fn record_duplicate(&self, duplicate: DuplicateSubmission) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: false };
        self.commit_pipeline()?.commit(Record::DuplicateSubmission(duplicate), Bytes::new(), wish).await
    }

    /// Returns whether the disk has space for a message of `size` bytes. Unknown free space counts as none.
    pub fn has_free_space(&self, size: u64) -> bool {
        if self.ledger_closed().is_some_and(|closed| closed.borrow().is_some()) {
            return false;
        }
        self.0.disk.free_space(&self.0.journal_dir).and_then(|free| free.check_available(size)).is_ok()
    }

    /// Creates a temporary file on the store's disk for the part of a body that is not held in memory. May
    /// block.
    pub fn create_spill_file(&self) -> io::Result<SpillFile> {
        SpillFile::new(&self.0.journal_dir)
    }

    /// Records that an attempt is about to send a message.
    pub async fn record_attempt_start(&self, attempt_start: AttemptStarted) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: false };
        self.commit_pipeline()?.commit(Record::AttemptStarted(attempt_start), Bytes::new(), wish).await
    }

    /// Records the outcome of an attempt; lookups see it on return.
    pub async fn record_attempt_outcome(&self, outcome: AttemptOutcome) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: true };
        self.commit_pipeline()?.commit(Record::AttemptOutcome(outcome), Bytes::new(), wish).await
    }

    /// Records an operator's action on a queued message; lookups see it on return.
    pub async fn record_queue_action(&self, action: QueueAction) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::QueueAction(action), Bytes::new(), wish).await
    }

    /// Records that an operator opened or closed a circuit breaker; lookups see it on return.
    pub async fn set_breaker_override(
        &self,
        breaker_override_record: BreakerOverride,
    ) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?
            .commit(Record::BreakerOverride(breaker_override_record), Bytes::new(), wish)
            .await
    }

    /// Records the time up to which a provider's events are complete; lookups see it on return. The last
    /// record counts.
    pub async fn set_poll_cursor(&self, cursor: PollCursor) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: false, wait_applied: true };
        self.commit_pipeline()?.commit(Record::PollCursor(cursor), Bytes::new(), wish).await
    }

    /// Stores a provider event in its raw form. On return it is correlated with its message.
    pub async fn put_event(&self, received_event: ReceivedEvent, raw: Bytes) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::ReceivedEvent(Box::new(received_event)), raw, wish).await
    }

    /// Stores a contact hint in its raw form; lookups see it on return. A duplicate hint changes nothing.
    pub async fn put_hint(&self, received_hint: ReceivedHint, raw: Bytes) -> Result<(), CommitError> {
        let wish = CommitOptions { urgent: true, wait_applied: true };
        self.commit_pipeline()?.commit(Record::ReceivedHint(Box::new(received_hint)), raw, wish).await
    }

    /// Waits until every committed record is applied and survives a power cut without replay.
    pub async fn checkpoint(&self) {
        if let Some(committer) = &self.0.commit_pipeline {
            // If the threads have ended, nothing more is pending.
            let _ = committer.drain().await;
        }
    }

    /// Checks that the journal and ledger threads respond, and so the disk. A ledger that cannot be written
    /// now counts as a response.
    pub async fn ping(&self) -> Result<(), CommitError> {
        match self.commit_pipeline()?.drain().await {
            Err(CommitError::Ledger(_)) => Ok(()),
            answered => answered,
        }
    }

    /// Returns a watch of the reason why the ledger is closed, `None` while it is open. The ledger is closed
    /// while it cannot be written. Returns `None` for a read-only store.
    pub fn ledger_closed(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.commit_pipeline.as_ref().map(CommitPipeline::ledger_closed)
    }

    /// Waits until the ledger is open.
    pub async fn wait_ledger_open(&self) {
        if let Some(mut closed) = self.ledger_closed() {
            // If the ledger thread has ended, lookups return the error.
            let _ = closed.wait_for(Option::is_none).await;
        }
    }

    /// Waits until the store accepts no more records because the ledger failed; returns the reason.
    pub async fn wait_failed(&self) -> String {
        match &self.0.commit_pipeline {
            Some(committer) => committer.wait_failed().await,
            None => std::future::pending().await,
        }
    }

    /// Returns a watch of the last write error: why the last group of records was not written, or `None`.
    /// Returns `None` for a read-only store.
    pub fn write_errors(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.commit_pipeline.as_ref().map(CommitPipeline::write_errors)
    }

    /// Returns the wake-up signal for messages that may be due.
    pub fn queue_wakeup(&self) -> &Wakeup {
        &self.0.queue_wakeup
    }

    /// Waits while the ledger is being written, which blocks its readers and their threads for some ms.
    pub async fn wait_idle(&self) {
        if let Ok(ledger) = self.ledger() {
            ledger.wait_idle().await;
        }
    }

    /// Returns the queues that hold messages, those of the first lane first.
    pub fn queue_ids(&self) -> Result<Vec<QueueId>, ReadError> {
        Ok(self.ledger()?.queue_ids()?)
    }

    /// Locks up to `limit` messages of a queue that are due by `now` and not locked. Also returns when the
    /// next message after them is due.
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

    /// Locks a message, unless it is locked. While the lock is held, no other task attempts or changes the
    /// message.
    pub fn try_lock(&self, id: TrackingId) -> Option<MessageLock> {
        self.0.message_locks.try_lock(id)
    }

    /// Checks all queued messages: those accepted before `accepted`, attempts begun before `attempt_start`, and
    /// unexpected queue rows. Reads every row of the queue.
    pub fn check_queue(
        &self,
        accepted: Timestamp,
        attempt_start: Timestamp,
    ) -> Result<CheckReport, ReadError> {
        let ledger = self.ledger()?;
        let mut audit = CheckReport::default();
        ledger.check_queue(accepted, &mut audit)?;
        let interrupted = ledger.interrupted_attempts()?.into_iter();
        audit.stuck = interrupted.filter(|cut| cut.at < attempt_start).map(|cut| cut.id).collect();
        Ok(audit)
    }

    /// Checks that `limit` messages after `from` have the queue rows that they need. Returns the id to
    /// continue from, or `None` at the end.
    pub fn check_messages(
        &self,
        from: Option<TrackingId>,
        limit: usize,
    ) -> Result<(CheckReport, Option<TrackingId>), ReadError> {
        let mut audit = CheckReport::default();
        let next = self.ledger()?.check_messages(from, limit, &mut audit)?;
        Ok((audit, next))
    }

    /// Returns all data that an attempt needs, or `None` for an unknown message.
    pub fn load_job(&self, id: TrackingId) -> Result<Option<DeliveryJob>, ReadError> {
        let ledger = self.ledger()?;
        let Some((send, row)) = ledger.load_message(id)? else { return Ok(None) };
        let recipients = ledger.load_recipients(id, &row)?;
        let body = match self.0.segment_cache.get_or_open(row.position.segment) {
            Ok(segment) => StoredBody::load(segment, row.position.offset)?,
            // Compaction removed the segment: no record in it was needed any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let queue_key = row.queue_entry.map(|queued| queued.queue_key.into());
        Ok(Some(DeliveryJob { message: send, recipients, attempts: row.attempts, queue_key, body }))
    }

    /// Returns the metadata of one message.
    pub fn load_message(&self, id: TrackingId) -> Result<Option<Message>, ReadError> {
        Ok(self.ledger()?.load_message(id)?.map(|(send, _)| send))
    }

    /// Returns the attempts that were interrupted by the end of the process.
    pub fn interrupted_attempts(&self) -> Result<Vec<AttemptStarted>, ReadError> {
        Ok(self.ledger()?.interrupted_attempts()?)
    }

    /// Returns whether an attempt is in progress, or was interrupted and its outcome is not recorded yet.
    pub fn is_sending(&self, id: TrackingId) -> Result<bool, ReadError> {
        Ok(self.ledger()?.is_sending(id)?)
    }

    /// Returns the queue key of a message while it is open.
    pub fn queue_key(&self, id: TrackingId) -> Result<Option<QueueKey>, ReadError> {
        let row = self.ledger()?.load_message(id)?.and_then(|(_, row)| row.queue_entry);
        Ok(row.map(|queued| queued.queue_key.into()))
    }

    /// Returns the full trail of one message.
    pub fn load_trail(&self, id: TrackingId) -> Result<Option<Trail>, ReadError> {
        Ok(self.ledger()?.load_trail(id)?)
    }

    /// Returns the open messages, the earliest due first.
    pub fn queued_ids(&self, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        let ledger = self.ledger()?;
        let mut queued = Vec::new();
        for queue in ledger.queue_ids()? {
            queued.extend(ledger.queued_messages(&queue, |_| true, limit)?);
        }
        queued.sort_unstable();
        Ok(queued.into_iter().map(|(_, id)| id).take(limit).collect())
    }

    /// Returns the messages of a queue with an acceptance time that satisfies `wanted`.
    pub fn queued_by_acceptance(
        &self,
        queue: &QueueId,
        wanted: impl Fn(Timestamp) -> bool,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        let queued = self.ledger()?.queued_messages(queue, |id| wanted(id.timestamp()), limit)?;
        Ok(queued.into_iter().map(|(_, id)| id).collect())
    }

    /// Returns up to `limit` messages of a queue with a wait that began in the future because the clock was
    /// ahead. Each comes with its intended delay.
    pub fn queued_in_future(
        &self,
        queue: &QueueId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(TrackingId, Duration)>, ReadError> {
        Ok(self.ledger()?.queued_in_future(queue, now, limit)?)
    }

    /// Returns when the newest message was accepted.
    pub fn newest_acceptance(&self) -> Result<Option<Timestamp>, ReadError> {
        let last = TrackingId::new(Timestamp::from_millis((1 << 48) - 1), u128::MAX);
        let newest = self.ids_in_range(TrackingId::new(Timestamp::default(), 0), last, 1)?;
        Ok(newest.first().map(|newest| newest.timestamp()))
    }

    /// Returns the operator's reason for keeping the breaker of an upstream open, if it is overridden.
    pub fn breaker_override(&self, upstream: &str) -> Result<Option<String>, ReadError> {
        Ok(self.ledger()?.breaker_override(upstream)?)
    }

    /// Returns the time up to which the events of an upstream's provider are complete, if it was ever polled.
    pub fn poll_cursor(&self, upstream: &str) -> Result<Option<Timestamp>, ReadError> {
        Ok(self.ledger()?.poll_cursor(upstream)?)
    }

    /// Counts recipients that an upstream accepted on `days` (UTC days since the epoch), as far as the ledger
    /// reaches back.
    pub fn relayed_count(&self, upstream: &str, days: RangeInclusive<u16>) -> Result<u64, ReadError> {
        Ok(self.ledger()?.relayed_count(upstream, days)?)
    }

    /// Returns messages with the given Message-ID, newest first.
    pub fn find_by_message_id(
        &self,
        message_id: &MessageId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.find_by_message_id(message_id, limit)?)
    }

    /// Returns whether a newer message with the same Message-ID went to that recipient: the client submitted
    /// it again.
    pub fn is_resubmitted(&self, send: &Message, recipient: &Mailbox) -> Result<bool, ReadError> {
        Ok(self.ledger()?.is_resubmitted(send, recipient)?)
    }

    /// Returns messages to the given recipient, newest first.
    pub fn find_by_recipient(&self, address: &str, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.find_by_recipient(address, limit)?)
    }

    /// Returns messages about the given Odoo record, newest first.
    pub fn find_by_odoo_record(
        &self,
        record: &OdooRecord,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.find_by_odoo_record(record, limit)?)
    }

    /// Searches the newest `searched` messages for a subject that contains `part`, ignoring case. Returns at
    /// most `limit`, newest first, and whether the search ended before the oldest message.
    pub fn find_by_subject(
        &self,
        part: &str,
        limit: usize,
        searched: usize,
    ) -> Result<(Vec<TrackingId>, bool), ReadError> {
        Ok(self.ledger()?.find_by_subject(part, limit, searched)?)
    }

    /// Returns messages with ids from `low` to `high`, newest first.
    pub fn ids_in_range(
        &self,
        low: TrackingId,
        high: TrackingId,
        limit: usize,
    ) -> Result<Vec<TrackingId>, ReadError> {
        Ok(self.ledger()?.ids_in_range(low, high, limit)?)
    }

    /// Counts the recipients of all messages accepted from `since` to `until`, in total and by group. Reads
    /// every message of that period.
    pub fn delivery_stats(
        &self,
        since: Timestamp,
        until: Timestamp,
        grouping: StatsGroup,
    ) -> Result<(DeliveryStats, BTreeMap<String, DeliveryStats>), ReadError> {
        Ok(self.ledger()?.delivery_stats(since, until, grouping)?)
    }

    /// Returns the users that submitted messages in `period`, each with a client address and the time of its
    /// last message. Reads every message of that period.
    pub fn logins(
        &self,
        period: Range<Timestamp>,
    ) -> Result<BTreeMap<(IpAddr, String), Timestamp>, ReadError> {
        Ok(self.ledger()?.logins(period)?)
    }

    /// Counts the recipients of messages accepted in `period` by submitting user. Reads every message of that
    /// period.
    pub fn submitted_by_user(&self, period: Range<Timestamp>) -> Result<BTreeMap<String, u64>, ReadError> {
        Ok(self.ledger()?.submitted_by_user(period)?)
    }

    /// Returns up to `limit` recipients for which a DSN is pending.
    pub fn pending_dsns(&self, limit: usize) -> Result<Vec<ReportedRecipient>, ReadError> {
        Ok(self.ledger()?.pending_dsns(limit)?)
    }

    /// Returns whether this event was already stored.
    pub fn has_event(&self, upstream: &str, event: &ProviderEvent) -> Result<bool, ReadError> {
        Ok(self.ledger()?.has_event(upstream, event)?)
    }

    /// Returns whether this hint was already stored.
    pub fn has_hint(&self, received_hint: &ReceivedHint) -> Result<bool, ReadError> {
        Ok(self.ledger()?.has_hint(received_hint)?)
    }

    /// Returns hints about the contact with that address, the latest received first.
    pub fn find_hints(&self, address: &str, limit: usize) -> Result<Vec<ReceivedHint>, ReadError> {
        Ok(self.ledger()?.find_hints(address, limit)?)
    }

    /// Returns the digest of the body that came with a webhook's token, if the token was used.
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

    /// Returns the ledger, or an error while it is closed.
    fn ledger(&self) -> ::sled::Result<Arc<Ledger>> {
        self.0.handle.load()
    }
}
