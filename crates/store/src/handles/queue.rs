//! The queue: due messages, attempts, operator actions and circuit breakers.

use crate::commit_command::{CommitError, CommitOptions};
use crate::message_locks::MessageLock;
use crate::queue_id::{QueueDepth, QueueId};
use crate::read_error::ReadError;
use crate::record::Record;
use crate::store::Store;
use crate::stored_body::StoredBody;
use crate::wakeup::Wakeup;
use bytes::Bytes;
use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_trail::{
    AttemptOutcome, AttemptStarted, BreakerOverride, Message, QueueAction, QueueKey, Recipient,
};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A message with all data that an attempt needs.
#[derive(Clone, Debug)]
pub struct DeliveryJob {
    /// Metadata of the message.
    pub message: Message,
    /// Recipients in the order of the envelope.
    pub recipients: Vec<Recipient>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Queue of the message while it is open.
    pub queue_key: Option<QueueKey>,
    /// Body, or `None` if it is found to be damaged on disk.
    pub body: Option<StoredBody>,
}

impl Store {
    /// Records that an attempt is about to send a message.
    pub async fn record_attempt_start(&self, attempt_start: AttemptStarted) -> Result<(), CommitError> {
        self.0.commit(Record::AttemptStarted(attempt_start), Bytes::new(), CommitOptions::RELAXED).await
    }

    /// Records the outcome of an attempt; lookups see it on return.
    pub async fn record_attempt_outcome(&self, outcome: AttemptOutcome) -> Result<(), CommitError> {
        self.0.commit(Record::AttemptOutcome(outcome), Bytes::new(), CommitOptions::RELAXED_APPLIED).await
    }

    /// Records an operator's action on a queued message; lookups see it on return.
    pub async fn record_queue_action(&self, action: QueueAction) -> Result<(), CommitError> {
        self.0.commit(Record::QueueAction(action), Bytes::new(), CommitOptions::URGENT_APPLIED).await
    }

    /// Records that an operator opened or closed a circuit breaker; lookups see it on return.
    pub async fn set_breaker_override(&self, breaker_override: BreakerOverride) -> Result<(), CommitError> {
        self.0
            .commit(Record::BreakerOverride(breaker_override), Bytes::new(), CommitOptions::URGENT_APPLIED)
            .await
    }

    /// Returns the operator's reason for keeping the breaker of an upstream open, if it is overridden.
    pub fn breaker_override(&self, upstream: &str) -> Result<Option<String>, ReadError> {
        Ok(self.0.ledger()?.breaker_override(upstream)?)
    }

    /// Returns the wake-up signal for messages that may be due.
    pub fn queue_wakeup(&self) -> &Wakeup {
        &self.0.queue_wakeup
    }

    /// Waits while the ledger is being written, which blocks its readers and their threads for some ms.
    pub async fn wait_idle(&self) {
        if let Ok(ledger) = self.0.ledger() {
            ledger.wait_idle().await;
        }
    }

    /// Returns the queues that hold messages, those of the first lane first.
    pub fn queue_ids(&self) -> Result<Vec<QueueId>, ReadError> {
        Ok(self.0.ledger()?.queue_ids()?)
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
        let (_, next) = self.0.ledger()?.due_messages(queue, now, limit, free)?;
        Ok((taken, next))
    }

    /// Locks a message, unless it is locked. While the lock is held, no other task attempts or changes the
    /// message.
    pub fn try_lock(&self, id: TrackingId) -> Option<MessageLock> {
        self.0.message_locks.try_lock(id)
    }

    /// Returns all data that an attempt needs, or `None` for an unknown message.
    pub fn load_job(&self, id: TrackingId) -> Result<Option<DeliveryJob>, ReadError> {
        let ledger = self.0.ledger()?;
        let Some((message, row)) = ledger.load_message(id)? else { return Ok(None) };
        let recipients = ledger.load_recipients(id, &row)?;
        let body = self.0.load_body(row.position)?;
        let queue_key = row.queue_entry.map(|queued| queued.queue_key.into());
        Ok(Some(DeliveryJob { message, recipients, attempts: row.attempts, queue_key, body }))
    }

    /// Returns the attempts that were interrupted by the end of the process.
    pub fn interrupted_attempts(&self) -> Result<Vec<AttemptStarted>, ReadError> {
        Ok(self.0.ledger()?.interrupted_attempts()?)
    }

    /// Returns whether an attempt is in progress, or was interrupted and its outcome is not recorded yet.
    pub fn is_sending(&self, id: TrackingId) -> Result<bool, ReadError> {
        Ok(self.0.ledger()?.is_sending(id)?)
    }

    /// Returns the queue key of a message while it is open.
    pub fn queue_key(&self, id: TrackingId) -> Result<Option<QueueKey>, ReadError> {
        let row = self.0.ledger()?.load_message(id)?.and_then(|(_, row)| row.queue_entry);
        Ok(row.map(|queued| queued.queue_key.into()))
    }

    /// Returns the open messages, the earliest due first.
    pub fn queued_ids(&self, limit: usize) -> Result<Vec<TrackingId>, ReadError> {
        let ledger = self.0.ledger()?;
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
        let queued = self.0.ledger()?.queued_messages(queue, |id| wanted(id.timestamp()), limit)?;
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
        Ok(self.0.ledger()?.queued_in_future(queue, now, limit)?)
    }

    /// Returns the queue depths by queue key. Reads every row of the queue: about 1 s per million messages.
    pub fn queue_depths(&self) -> Result<Vec<(QueueKey, QueueDepth)>, ReadError> {
        Ok(self.0.ledger()?.queue_depths()?)
    }

    /// Counts recipients that an upstream accepted on `days` (UTC days since the epoch), as far as the ledger
    /// reaches back.
    pub fn relayed_count(&self, upstream: &str, days: RangeInclusive<u16>) -> Result<u64, ReadError> {
        Ok(self.0.ledger()?.relayed_count(upstream, days)?)
    }
}
