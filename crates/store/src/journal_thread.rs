//! The journal thread: writes records in groups and syncs each group.
//!
//! While a sync runs, the next group gathers. Urgent records, for which a caller waits, are written at once.
//! Other records join the next group if one follows soon, so a lone client costs one sync per message, not
//! three. Under load, clients that were just answered are about to send again, and a short pause includes
//! their records. On a slow disk the next group does not wait for the previous sync: several syncs run in
//! parallel, and are acknowledged in order.

use crate::commit_command::{Ack, CommitError, CommitOptions, CommittedGroup, JournalCommand, LedgerCommand};
use crate::journal::{EncodedRecord, Writer};
use crate::position::Position;
use crate::record::{JournalRecord, Record};
use mailtrail_mail::Clock;
use mailtrail_trail::InboundRecord;
use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout_at;

/// State of the journal thread.
pub struct JournalThread {
    writer: Writer,
    ledger_commands: mpsc::Sender<LedgerCommand>,
    apply_permits: Arc<Semaphore>,
    clock: Clock,
    /// Reason why the last group was not written.
    write_errors: watch::Sender<Option<String>>,
    /// Reason why the ledger is closed, if it is.
    ledger_closed: watch::Receiver<Option<String>>,
    /// Groups that are written and being synced, oldest first.
    in_flight_syncs: VecDeque<(WrittenBatch, JoinHandle<io::Result<()>>)>,
    /// Time that the last group took.
    last_commit_latency: Duration,
}

/// Records of one sync.
#[derive(Default)]
struct Batch {
    records: Vec<(Record, CommitOptions, Ack)>,
    encoded: Vec<EncodedRecord>,
    drain_acks: Vec<Ack>,
    seal_after: Option<Duration>,
    bytes: u64,
    is_urgent: bool,
}

/// A written group; its records are durable once it is synced.
struct WrittenBatch {
    records: Vec<JournalRecord>,
    acks: Vec<(CommitOptions, Ack)>,
    start: Position,
    end: Position,
    started: Instant,
}

/// The ledger thread has ended.
pub struct LedgerThreadStopped;

impl JournalThread {
    /// Creates the state of a thread that writes with `writer`, passes durable groups on and publishes write
    /// errors.
    pub fn new(
        writer: Writer,
        clock: Clock,
        ledger_commands: mpsc::Sender<LedgerCommand>,
        write_errors: watch::Sender<Option<String>>,
        ledger_closed: watch::Receiver<Option<String>>,
    ) -> Self {
        let apply_permits = Arc::new(Semaphore::new(MAX_UNAPPLIED_RECORDS));
        Self {
            writer,
            ledger_commands,
            apply_permits,
            clock,
            write_errors,
            ledger_closed,
            in_flight_syncs: VecDeque::new(),
            last_commit_latency: Duration::ZERO,
        }
    }

    /// Runs until all senders are gone, or until the ledger thread has ended.
    pub async fn run(
        mut self,
        mut incoming: mpsc::Receiver<JournalCommand>,
    ) -> Result<(), LedgerThreadStopped> {
        let mut last = 0;
        while let Some(first) = self.while_syncing(incoming.recv()).await? {
            if self.in_flight_syncs.len() >= MAX_PARALLEL_SYNCS {
                self.finish_one_sync().await?;
            }
            let mut batch = Batch::default();
            batch.add_command(first);
            self.collect_batch(&mut batch, &mut incoming).await?;
            if self.in_flight_syncs.is_empty() && last >= COMMIT_SIBLINGS && batch.records.len() < last {
                std::thread::sleep((self.last_commit_latency / COMMIT_DELAY_DIVISOR).min(MAX_COMMIT_DELAY));
                batch.add_waiting(&mut incoming);
            }
            last = batch.records.len();
            self.commit_batch(batch).await?;
        }
        self.finish_all_syncs().await
    }

    /// Waits for `wanted`; groups that are synced in the meantime are passed on.
    async fn while_syncing<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, LedgerThreadStopped> {
        let mut wanted = pin!(wanted);
        loop {
            let ended = tokio::select! {
                biased;
                ended = wait_oldest_sync(&mut self.in_flight_syncs) => ended,
                value = &mut wanted => return Ok(value),
            };
            self.finish_oldest(ended).await?;
        }
    }

    /// Adds waiting commands to the batch, and those that arrive while no record is urgent.
    async fn collect_batch(
        &mut self,
        batch: &mut Batch,
        incoming: &mut mpsc::Receiver<JournalCommand>,
    ) -> Result<(), LedgerThreadStopped> {
        let patience = tokio::time::Instant::now() + NON_URGENT_DELAY;
        while !batch.is_full() {
            let next = match incoming.try_recv() {
                Ok(next) => next,
                Err(_)
                    if batch.is_urgent
                        || batch.encoded.len() >= MAX_NON_URGENT_RECORDS
                        || self.in_flight_syncs.len() >= BUSY_SYNCS =>
                {
                    break;
                }
                Err(_) => match self.while_syncing(timeout_at(patience, incoming.recv())).await? {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            batch.add_command(next);
        }
        Ok(())
    }

    async fn commit_batch(&mut self, batch: Batch) -> Result<(), LedgerThreadStopped> {
        let Batch { records, encoded, drain_acks, seal_after, bytes, .. } = batch;
        let closed = self.ledger_closed.borrow().clone();
        if let Some(why) = closed {
            // Lookups would not see records written now. Their syncs complete, and the ledger applies them
            // after reopening.
            self.finish_all_syncs().await?;
            let answers = records.into_iter().map(|(.., answer)| answer).chain(drain_acks);
            answers.for_each(|answer| drop(answer.send(Err(CommitError::Ledger(why.clone())))));
            return Ok(());
        }
        if !encoded.is_empty() {
            match self.check_free_space(&records, bytes) {
                Ok(()) => self.write_and_sync(records, encoded).await?,
                Err(error) => reject_all(records.into_iter().map(|(.., answer)| answer), &error),
            }
        }
        if seal_after.is_some() || !drain_acks.is_empty() {
            self.finish_all_syncs().await?;
        }
        if let Some(age) = seal_after {
            self.seal_segment(age);
        }
        for answer in drain_acks {
            self.send_to_ledger(LedgerCommand::Checkpoint(answer)).await?;
        }
        Ok(())
    }

    /// Writes a group and syncs it: in this thread if syncs are fast, otherwise in parallel with the next
    /// groups.
    async fn write_and_sync(
        &mut self,
        records: Vec<(Record, CommitOptions, Ack)>,
        drafts: Vec<EncodedRecord>,
    ) -> Result<(), LedgerThreadStopped> {
        let is_slow = self.last_commit_latency >= SLOW_SYNC;
        // A new segment's header names the end of the previous one, so its syncs must be complete.
        if !is_slow || !self.writer.has_open_segment() {
            self.finish_all_syncs().await?;
        }
        let (began, now) = (Instant::now(), self.clock.now());
        let beside = if is_slow { self.writer.reopen_segment(now).ok() } else { None };
        if is_slow && beside.is_none() {
            // Without another descriptor the group is synced here, after the pending syncs.
            self.finish_all_syncs().await?;
        }
        let positions = match self.writer.append(&drafts, now) {
            Ok(positions) => positions,
            Err(error) => {
                self.record_latency(began, Some(&error));
                reject_all(records.into_iter().map(|(.., answer)| answer), &error);
                return Ok(());
            }
        };
        let written = WrittenBatch::new(records, &drafts, positions, self.writer.position(), began);
        match beside {
            Some(mut file) => self.in_flight_syncs.push_back((written, spawn_blocking(move || file.fsync()))),
            None => {
                let synced = self.writer.fsync();
                self.finish_batch(written, synced).await?;
            }
        }
        Ok(())
    }

    async fn finish_oldest(&mut self, synced: io::Result<()>) -> Result<(), LedgerThreadStopped> {
        match self.in_flight_syncs.pop_front() {
            Some((written, _)) => self.finish_batch(written, synced).await,
            None => Ok(()),
        }
    }

    async fn finish_one_sync(&mut self) -> Result<(), LedgerThreadStopped> {
        let ended = wait_oldest_sync(&mut self.in_flight_syncs).await;
        self.finish_oldest(ended).await
    }

    async fn finish_all_syncs(&mut self) -> Result<(), LedgerThreadStopped> {
        while !self.in_flight_syncs.is_empty() {
            self.finish_one_sync().await?;
        }
        Ok(())
    }

    /// Passes a synced group on. A failed sync also fails the groups after it, and the segment is abandoned.
    async fn finish_batch(
        &mut self,
        written: WrittenBatch,
        synced: io::Result<()>,
    ) -> Result<(), LedgerThreadStopped> {
        self.record_latency(written.started, synced.as_ref().err());
        let Err(error) = synced else {
            self.last_commit_latency = written.started.elapsed();
            let records = written.records.len();
            let group = CommittedGroup::from(written);
            let permits = self.apply_permits(records).await;
            return self.send_to_ledger(LedgerCommand::Apply(group, permits)).await;
        };
        let start = written.start;
        let mut lost = vec![written];
        for (behind, sync) in self.in_flight_syncs.drain(..) {
            // The result does not matter.
            let _ = sync.await;
            lost.push(behind);
        }
        self.writer.abandon_segment(start);
        reject_all(lost.into_iter().flat_map(|lost| lost.acks).map(|(_, answer)| answer), &error);
        Ok(())
    }

    /// Records how long a group took, and its error.
    fn record_latency(&self, began: Instant, error: Option<&io::Error>) {
        metrics::histogram!("mailtrail_commit_seconds").record(began.elapsed());
        let why = error.map(ToString::to_string);
        self.write_errors.send_if_modified(|trouble| {
            let differs = *trouble != why;
            *trouble = why;
            differs
        });
    }

    async fn send_to_ledger(&self, task: LedgerCommand) -> Result<(), LedgerThreadStopped> {
        self.ledger_commands.send(task).await.map_err(|_| LedgerThreadStopped)
    }

    /// Waits until the ledger thread has capacity for that many records.
    async fn apply_permits(&self, records: usize) -> OwnedSemaphorePermit {
        let records = u32::try_from(records.min(MAX_UNAPPLIED_RECORDS)).unwrap_or(u32::MAX);
        self.apply_permits.clone().acquire_many_owned(records).await.expect("nobody closes it")
    }

    fn seal_segment(&mut self, age: Duration) {
        let now = self.clock.now();
        let old = self.writer.created_at().is_some_and(|made| now.duration_since(made) >= age);
        if old
            && self.writer.is_nonempty()
            && let Err(error) = self.writer.rotate_segment(now)
        {
            tracing::error!(%error, "cannot create journal segment");
        }
    }

    /// Rejects only records that grow the store.
    fn check_free_space(&self, records: &[(Record, CommitOptions, Ack)], bytes: u64) -> io::Result<()> {
        let grows = |record: &Record| match record {
            Record::AcceptedMessage(_)
            | Record::ReceivedEvent(_)
            | Record::ReceivedHint(_)
            | Record::DeadLetter(_) => true,
            Record::Inbound(inbound) => matches!(**inbound, InboundRecord::Received(_)),
            _ => false,
        };
        if !records.iter().any(|(record, ..)| grows(record)) {
            return Ok(());
        }
        self.writer.free_space()?.check_available(bytes)
    }
}

impl Batch {
    fn add_waiting(&mut self, incoming: &mut mpsc::Receiver<JournalCommand>) {
        while !self.is_full()
            && let Ok(next) = incoming.try_recv()
        {
            self.add_command(next);
        }
    }

    fn add_command(&mut self, request: JournalCommand) {
        match request {
            JournalCommand::Append { record, encoded, options, ack } => {
                self.bytes += encoded.size();
                self.is_urgent |= options.urgent;
                self.records.push((record, options, ack));
                self.encoded.push(encoded);
            }
            JournalCommand::Seal(age) => (self.seal_after, self.is_urgent) = (Some(age), true),
            JournalCommand::Drain(answer) => {
                self.drain_acks.push(answer);
                self.is_urgent = true;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= MAX_BATCH_RECORDS || self.bytes >= MAX_BATCH_BYTES
    }
}

impl WrittenBatch {
    fn new(
        records: Vec<(Record, CommitOptions, Ack)>,
        drafts: &[EncodedRecord],
        positions: Vec<Position>,
        end: Position,
        started: Instant,
    ) -> Self {
        let start = positions.first().copied().unwrap_or(end);
        let stored = |((record, wish, answer), (draft, position)): (
            (Record, CommitOptions, Ack),
            (&EncodedRecord, Position),
        )| {
            (JournalRecord { record, position, body_length: draft.body_length() }, (wish, answer))
        };
        let (records, acks) = records.into_iter().zip(drafts.iter().zip(positions)).map(stored).unzip();
        Self { records, acks, start, end, started }
    }
}

impl From<WrittenBatch> for CommittedGroup {
    /// Acknowledges callers that waited for the sync only.
    fn from(written: WrittenBatch) -> Self {
        let mut acks = Vec::new();
        for (wish, answer) in written.acks {
            if wish.wait_applied {
                acks.push(answer);
            } else {
                // The caller may have gone away.
                let _ = answer.send(Ok(()));
            }
        }
        Self { records: written.records, acks, position: written.end }
    }
}

/// Waits for the oldest sync; never completes if there is none.
async fn wait_oldest_sync(
    syncing: &mut VecDeque<(WrittenBatch, JoinHandle<io::Result<()>>)>,
) -> io::Result<()> {
    match syncing.front_mut() {
        Some((_, sync)) => sync.await.unwrap_or_else(|broken| Err(io::Error::other(broken))),
        None => pending().await,
    }
}

fn reject_all(answers: impl Iterator<Item = Ack>, error: &io::Error) {
    let refused = answers.map(|answer| answer.send(Err(CommitError::Journal(error.to_string()))));
    let records = refused.count();
    tracing::error!(%error, records, "the journal cannot be written: nothing is accepted until it can");
}

/// Maximum records of one sync.
const MAX_BATCH_RECORDS: usize = 256;
/// Maximum bytes of one sync.
const MAX_BATCH_BYTES: u64 = 8 << 20;
/// Maximum delay of a non-urgent record, so that it can share a sync.
const NON_URGENT_DELAY: Duration = Duration::from_millis(1);
/// Number of non-urgent records that triggers a write.
const MAX_NON_URGENT_RECORDS: usize = 16;
/// Number of records in a sync from which on the next one waits for as many.
const COMMIT_SIBLINGS: usize = 4;
/// Divisor of the last group's time: the pause must be shorter than the sync that it saves.
const COMMIT_DELAY_DIVISOR: u32 = 4;
/// Maximum pause before a group is written.
const MAX_COMMIT_DELAY: Duration = Duration::from_millis(2);
/// Duration from which on syncs run in parallel: the next group does not wait for a sync that takes this
/// long.
const SLOW_SYNC: Duration = Duration::from_millis(1);
/// Maximum number of parallel syncs.
const MAX_PARALLEL_SYNCS: usize = 8;
/// Number of running syncs from which on the next group is written without a pause.
const BUSY_SYNCS: usize = 2;
/// Records that may wait for the ledger thread: as many as arrive while it writes a memtable to sled. Each
/// takes a few KiB, without the body.
const MAX_UNAPPLIED_RECORDS: usize = 4096;
