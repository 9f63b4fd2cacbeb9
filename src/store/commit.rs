//! Group commit: one thread writes the journal, one applies what was written.
//!
//! While a sync runs, the next group gathers. A record that somebody waits for is written at once; one that nobody
//! waits for rides with the next, if that comes soon: a lone client pays one sync a message, not three. Where many write
//! at once, those who were just answered are about to come again, and a short pause takes them along. What waits between
//! the two threads is bounded, so a slow projection slows the writers down instead of filling the memory.

use super::OpenReport;
use super::journal::{Draft, Place, Writer};
use super::lock::Lock;
use super::message::Message;
use super::rebuild::{discard, remove};
use super::record::{Kept, Record};
use super::replay::{self, chain, up_to};
use super::sled::{Current, Projection};
use crate::clock::{Clock, Timestamp};
use crate::id::TrackingId;
use crate::ledger::Inbound;
use crate::wakeup::Wakeup;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout_at;

/// Why a record was not kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk refused.
    #[error("the journal cannot be written: {0}")]
    Disk(String),
    /// The store was opened for reading, or has failed.
    #[error("the store takes nothing: it was opened for reading, or it has failed")]
    ReadOnly,
}

/// The writing side of a store.
pub struct Committer {
    requests: mpsc::Sender<Request>,
    tasks: mpsc::Sender<Task>,
    failure: watch::Receiver<Option<String>>,
    trouble: watch::Receiver<Option<String>>,
}

/// What a committer works with.
pub struct Parts {
    pub writer: Writer,
    pub journal: PathBuf,
    pub current: Arc<Current>,
    pub clock: Clock,
    pub due: Wakeup,
    pub lock: Arc<Lock>,
}

/// How a record is to be committed.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Whether it is written at once, or with the next that is.
    pub urgent: bool,
    /// Whether lookups must see it before anybody is told.
    pub applied: bool,
}

enum Request {
    Commit {
        record: Record,
        draft: Draft,
        wish: Wish,
        answer: Answer,
    },
    /// A new segment, if the present one holds anything and is at least that old.
    Seal(Duration),
    Drain(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<(), CommitError>>;

/// What the ledger thread does, in order.
pub enum Task {
    /// Applies records that are on stable storage, and gives their room back.
    Apply(Group, OwnedSemaphorePermit),
    /// Takes out sends that are over since before that time.
    Forget(Vec<TrackingId>, Timestamp),
    /// Takes out rows.
    Delete(Vec<Vec<u8>>),
    /// Takes out dossiers of which nothing is needed any more since before that time.
    ForgetDossiers(Vec<Vec<u8>>, Timestamp),
    /// That many bytes of finished messages left that segment of the journal.
    Dropped(u32, u64),
    /// Goes on with another projection, once it is brought up to this one.
    Replace(Box<Projection>),
    /// Makes everything so far durable and says so.
    Checkpoint(oneshot::Sender<()>),
}

/// Records that are on stable storage.
pub struct Group {
    records: Vec<Kept>,
    answers: Vec<Answer>,
    position: Place,
}

impl Committer {
    /// Starts both threads. They let go of the projection after the last [`Committer`] is gone, and of the lock after
    /// that: whoever gets the lock next can open the projection.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let (requests, incoming) = mpsc::channel(REQUESTS);
        let (tasks, written) = mpsc::channel(TASKS);
        let (failed, failure) = watch::channel(None);
        let (troubled, trouble) = watch::channel(None);
        let Parts { writer, journal, current, clock, due, lock } = parts;
        let runtime = || Builder::new_current_thread().enable_time().build();
        let (runtime, waiting) = (runtime()?, runtime()?);
        let room = Arc::new(Semaphore::new(WAITING));
        let scribe = Scribe { writer, tasks: tasks.clone(), room, clock, trouble: troubled };
        let witness = |thread| Witness { thread, failed: failed.clone() };
        let (over_journal, over_ledger) = (witness("journal"), witness("ledger"));
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let _witness = over_journal;
            runtime.block_on(scribe.write(incoming));
        })?;
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let _witness = over_ledger;
            let projection = current.projection();
            let mut ledger = Ledger { journal, projection, current, due, held: None, waiting };
            if let Err(error) = ledger.run(written) {
                tracing::error!(%error, "the ledger failed; the journal is whole: restart to rebuild the ledger from it");
                let _ = failed.send(Some(error));
            }
            drop(ledger);
            drop(lock);
        })?;
        Ok(Self { requests, tasks, failure, trouble })
    }

    /// Returns when the record is kept as wished.
    pub async fn commit(
        &self,
        record: Record,
        body: impl Into<Message>,
        wish: Wish,
    ) -> Result<(), CommitError> {
        let draft = Draft::new(record.kind(), record.version(), record.encode(), body.into());
        let (answer, answered) = oneshot::channel();
        let request = Request::Commit { record, draft, wish, answer };
        self.requests.send(request).await.map_err(|_| CommitError::ReadOnly)?;
        answered.await.unwrap_or(Err(CommitError::ReadOnly))
    }

    /// The same on a thread that may wait: returns when lookups see the record.
    pub fn commit_blocking(&self, record: Record) -> Result<(), CommitError> {
        let draft = Draft::new(record.kind(), record.version(), record.encode(), bytes::Bytes::new().into());
        let (answer, answered) = oneshot::channel();
        let wish = Wish { urgent: true, applied: true };
        let request = Request::Commit { record, draft, wish, answer };
        self.requests.blocking_send(request).map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Goes on with a new segment soon, if the present one holds anything and is at least `age` old.
    pub fn seal(&self, age: Duration) {
        // When the threads are gone there is nothing to seal.
        let _ = self.requests.blocking_send(Request::Seal(age));
    }

    /// Hands the ledger thread something to do; it waits while there is much.
    pub fn task(&self, task: Task) -> Result<(), CommitError> {
        self.tasks.blocking_send(task).map_err(|_| CommitError::ReadOnly)
    }

    /// Returns when everything sent before is applied and the projection is on stable storage.
    pub async fn drain(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Drain(answer)).await.map_err(|_| CommitError::ReadOnly)?;
        answered.await.map_err(|_| CommitError::ReadOnly)
    }

    /// The same on a thread that may wait.
    pub fn drain_blocking(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.requests.blocking_send(Request::Drain(answer)).map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().map_err(|_| CommitError::ReadOnly)
    }

    /// Follows why the last group of records could not be written and synced; `None` when it could.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// Waits for the projection to fail, or for a thread to break.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = failure.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "its threads have ended".to_owned())
    }
}

/// Tells of a thread that broke.
struct Witness {
    thread: &'static str,
    failed: watch::Sender<Option<String>>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.failed.send(Some(format!("the {}'s thread broke", self.thread)));
        }
    }
}

/// The journal thread.
struct Scribe {
    writer: Writer,
    tasks: mpsc::Sender<Task>,
    room: Arc<Semaphore>,
    clock: Clock,
    /// Why the last group could not be written.
    trouble: watch::Sender<Option<String>>,
}

/// What goes into one sync.
#[derive(Default)]
struct Batch {
    records: Vec<(Record, Wish, Answer)>,
    drafts: Vec<Draft>,
    drained: Vec<oneshot::Sender<()>>,
    sealed: Option<Duration>,
    bytes: u64,
    urgent: bool,
}

impl Scribe {
    async fn write(mut self, mut incoming: mpsc::Receiver<Request>) {
        let (mut last, mut took) = (0, Duration::ZERO);
        while let Some(first) = incoming.recv().await {
            let mut batch = Batch::gather(first, &mut incoming).await;
            if last >= COMPANY && batch.records.len() < last {
                std::thread::sleep((took / PAUSE).min(LONGEST_PAUSE));
                batch.add_all(&mut incoming);
            }
            last = batch.records.len();
            let begun = Instant::now();
            if self.commit(batch).await.is_err() {
                return;
            }
            took = begun.elapsed();
        }
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), mpsc::error::SendError<Task>> {
        let Batch { records, drafts, drained, sealed, bytes, .. } = batch;
        let kept = self.enough_space(&records, bytes).and_then(|()| self.append(&drafts));
        match kept {
            Err(error) => refuse(records, &error),
            Ok(_) if drafts.is_empty() => {}
            Ok(places) => {
                let group = Group::of(records, &drafts, places, self.writer.place());
                let room = self.room(drafts.len()).await;
                self.tasks.send(Task::Apply(group, room)).await?;
            }
        }
        if let Some(age) = sealed {
            self.seal(age);
        }
        for answer in drained {
            self.tasks.send(Task::Checkpoint(answer)).await?;
        }
        Ok(())
    }

    /// Waits until the ledger thread has room for that many records.
    async fn room(&self, records: usize) -> OwnedSemaphorePermit {
        let records = u32::try_from(records.min(WAITING)).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(records).await.expect("nobody closes it")
    }

    /// Appends a batch; a segment that failed is given up, and the next batch goes to a new one.
    fn append(&mut self, drafts: &[Draft]) -> io::Result<Vec<Place>> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let places = self.writer.append(drafts, self.clock.now());
        metrics::histogram!("mailtrail_commit_seconds").record(started.elapsed());
        let why = places.as_ref().err().map(ToString::to_string);
        self.trouble.send_if_modified(|trouble| {
            let differs = *trouble != why;
            *trouble = why;
            differs
        });
        places
    }

    fn seal(&mut self, age: Duration) {
        let now = self.clock.now();
        let old = self.writer.made().is_some_and(|made| now.since(made) >= age);
        if old
            && self.writer.is_used()
            && let Err(error) = self.writer.rotate(now)
        {
            tracing::error!(%error, "a new segment of the journal cannot be made");
        }
    }

    /// Only what grows the store is held back.
    fn enough_space(&self, records: &[(Record, Wish, Answer)], bytes: u64) -> io::Result<()> {
        let grows = |record: &Record| match record {
            Record::Accepted(_) | Record::Notice(_) | Record::Hint(_) | Record::Dead(_) => true,
            Record::Inbound(inbound) => matches!(**inbound, Inbound::Arrived(_)),
            _ => false,
        };
        if !records.iter().any(|(record, ..)| grows(record)) {
            return Ok(());
        }
        self.writer.free()?.admit(bytes)
    }
}

impl Batch {
    /// What waits already, and what comes while nobody is in a hurry.
    async fn gather(first: Request, incoming: &mut mpsc::Receiver<Request>) -> Self {
        let mut batch = Self::default();
        batch.add(first);
        let patience = tokio::time::Instant::now() + PATIENCE;
        while !batch.is_full() {
            let next = match incoming.try_recv() {
                Ok(next) => next,
                Err(_) if batch.urgent || batch.drafts.len() >= CROWD => break,
                Err(_) => match timeout_at(patience, incoming.recv()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            batch.add(next);
        }
        batch
    }

    fn add_all(&mut self, incoming: &mut mpsc::Receiver<Request>) {
        while !self.is_full()
            && let Ok(next) = incoming.try_recv()
        {
            self.add(next);
        }
    }

    fn add(&mut self, request: Request) {
        match request {
            Request::Commit { record, draft, wish, answer } => {
                self.bytes += draft.size();
                self.urgent |= wish.urgent;
                self.records.push((record, wish, answer));
                self.drafts.push(draft);
            }
            Request::Seal(age) => (self.sealed, self.urgent) = (Some(age), true),
            Request::Drain(answer) => {
                self.drained.push(answer);
                self.urgent = true;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }
}

impl Group {
    /// Answers who waited for the sync only.
    fn of(
        records: Vec<(Record, Wish, Answer)>,
        drafts: &[Draft],
        places: Vec<Place>,
        position: Place,
    ) -> Self {
        let mut group = Self { records: Vec::with_capacity(records.len()), answers: Vec::new(), position };
        for (((record, wish, answer), draft), place) in records.into_iter().zip(drafts).zip(places) {
            group.records.push(Kept { record, place, body: draft.body_length() });
            if wish.applied {
                group.answers.push(answer);
            } else {
                // Who went away does not mind.
                let _ = answer.send(Ok(()));
            }
        }
        group
    }

    fn absorb(&mut self, next: Self) {
        self.records.extend(next.records);
        self.answers.extend(next.answers);
        self.position = next.position;
    }
}

fn refuse(records: Vec<(Record, Wish, Answer)>, error: &io::Error) {
    tracing::error!(%error, records = records.len(), "the journal cannot be written: nothing is accepted until it can");
    for (_, _, answer) in records {
        let _ = answer.send(Err(CommitError::Disk(error.to_string())));
    }
}

/// The ledger thread: the only one that changes the projection.
struct Ledger {
    journal: PathBuf,
    projection: Arc<Projection>,
    current: Arc<Current>,
    due: Wakeup,
    /// Came while groups were gathered.
    held: Option<Task>,
    waiting: Runtime,
}

impl Ledger {
    fn run(&mut self, mut tasks: mpsc::Receiver<Task>) -> Result<(), String> {
        let mut checkpointed = Instant::now();
        while let Some(task) = self.next(&mut tasks)? {
            match task {
                Task::Apply(group, _room) => self.apply(group),
                Task::Forget(sends, before) => self.projection.forget(&sends, before),
                Task::Delete(keys) => {
                    self.projection.delete(keys);
                    Ok(())
                }
                Task::ForgetDossiers(keys, before) => self.projection.forget_dossiers(keys, before),
                Task::Dropped(segment, bytes) => self.projection.dropped(segment, bytes),
                Task::Replace(projection) => {
                    self.replace(*projection);
                    Ok(())
                }
                Task::Checkpoint(answer) => {
                    self.checkpoint()?;
                    let _ = answer.send(());
                    Ok(())
                }
            }
            .map_err(|error| error.to_string())?;
            if self.projection.is_full()
                || self.projection.flush_due().is_some_and(|due| due <= Instant::now())
            {
                self.flush()?;
            }
            if checkpointed.elapsed() >= CHECKPOINT_EVERY {
                self.checkpoint()?;
                checkpointed = Instant::now();
            }
        }
        self.checkpoint()
    }

    /// The next thing to do; groups that wait already are done together.
    fn next(&mut self, tasks: &mut mpsc::Receiver<Task>) -> Result<Option<Task>, String> {
        let mut task = match self.held.take() {
            Some(held) => Some(held),
            None => self.wait(tasks)?,
        };
        if let Some(Task::Apply(group, room)) = &mut task {
            while group.records.len() < APPLY_RECORDS && self.held.is_none() {
                match tasks.try_recv() {
                    Ok(Task::Apply(next, more)) => {
                        group.absorb(next);
                        room.merge(more);
                    }
                    Ok(other) => self.held = Some(other),
                    Err(_) => break,
                }
            }
        }
        Ok(task)
    }

    /// Waits for something to do; what was applied is not kept waiting.
    fn wait(&self, tasks: &mut mpsc::Receiver<Task>) -> Result<Option<Task>, String> {
        if let Some(due) = self.projection.flush_due() {
            let task = self.waiting.block_on(async { timeout_at(due.into(), tasks.recv()).await });
            if let Ok(task) = task {
                return Ok(task);
            }
            self.flush()?;
        }
        Ok(tasks.blocking_recv())
    }

    fn flush(&self) -> Result<(), String> {
        self.projection.flush().map_err(|error| error.to_string())
    }

    fn checkpoint(&self) -> Result<(), String> {
        self.projection.checkpoint().map_err(|error| error.to_string())
    }

    fn apply(&self, group: Group) -> ::sled::Result<()> {
        self.projection.apply(&group.records, group.position)?;
        if group.records.iter().any(|kept| kept.record.may_be_due()) {
            self.due.ring();
        }
        for answer in group.answers {
            let _ = answer.send(Ok(()));
        }
        Ok(())
    }

    /// One that cannot be brought up to date is left, and the present one goes on.
    fn replace(&mut self, projection: Projection) {
        match self.bring_up_to_date(&projection) {
            Ok(()) => {
                let old = self.current.replace(projection);
                self.projection = self.current.projection();
                remove(old.directory());
            }
            Err(error) => {
                tracing::error!(error, "the ledger that was built anew cannot be used; the old one goes on");
                discard(projection);
            }
        }
    }

    fn bring_up_to_date(&self, projection: &Projection) -> Result<(), String> {
        let position = self.projection.position().map_err(|error| error.to_string())?.unwrap_or_default();
        let chain = chain(&self.journal).map_err(|error| error.to_string())?;
        let chain = up_to(chain, position);
        replay::replay(&self.journal, &chain, projection, 1, &mut OpenReport::default(), &mut |_| {})
            .map_err(|error| error.to_string())?;
        projection.checkpoint().map_err(|error| error.to_string())
    }
}

/// Records that may wait for the journal thread.
const REQUESTS: usize = 1024;
/// Tasks that may wait for the ledger thread.
const TASKS: usize = 1024;
/// Records that may wait for it: as many as come while it writes a window to sled. A few KiB each, without messages.
const WAITING: usize = 4096;
/// Records of one sync.
const BATCH_RECORDS: usize = 256;
/// Bytes of one sync.
const BATCH_BYTES: u64 = 8 << 20;
/// How long a record that nobody waits for waits for company.
const PATIENCE: Duration = Duration::from_millis(1);
/// Records that nobody waits for, from which on they wait no longer.
const CROWD: usize = 16;
/// Records of a sync from which on the next one waits for as many.
const COMPANY: usize = 4;
/// That part of the time that the last group took is waited: less than the sync that it saves.
const PAUSE: u32 = 4;
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// Records applied in one batch, from which on no further group is added.
const APPLY_RECORDS: usize = 200;
/// How much replay a restart may cost.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
