//! Group commit: one thread, the [`Scribe`], writes the journal, one, the [`Applier`], applies what was written. What
//! waits between them is bounded, so a slow projection slows the writers down instead of filling the memory.

use crate::body::Message;
use crate::data_dir_lock::Lock;
use crate::journal::{Draft, Place, Writer};
use crate::journal_thread::Scribe;
use crate::ledger::{Current, Projection};
use crate::ledger_thread::Applier;
use crate::open::LedgerPlace;
use crate::record::{Kept, Record};
use crate::wakeup::Wakeup;
use mailtrail_mail::{Clock, Timestamp, TrackingId};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// Why a record was not kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk refused.
    #[error("the journal cannot be written: {0}")]
    Disk(String),
    /// The ledger cannot be written now.
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
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
    closed: watch::Receiver<Option<String>>,
}

/// What a committer works with.
pub struct Parts {
    pub writer: Writer,
    /// Where the journal ended when it was opened.
    pub end: Place,
    pub place: LedgerPlace,
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

/// What the journal thread does.
pub enum Request {
    /// Keeps a record.
    Commit {
        /// What it says.
        record: Record,
        /// What is written.
        draft: Draft,
        /// How.
        wish: Wish,
        /// Who waits.
        answer: Answer,
    },
    /// A new segment, if the present one holds anything and is at least that old.
    Seal(Duration),
    /// Everything before is to be applied and durable.
    Drain(Answer),
}

/// Who waits for a record.
pub type Answer = oneshot::Sender<Result<(), CommitError>>;

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
    Checkpoint(Answer),
}

/// Records that are on stable storage.
pub struct Group {
    pub records: Vec<Kept>,
    /// Who waits until they are applied.
    pub answers: Vec<Answer>,
    /// The journal's end behind them.
    pub position: Place,
}

impl Committer {
    /// Starts both threads. They let go of the projection after the last [`Committer`] is gone, and of the lock after
    /// that: whoever gets the lock next can open the projection.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let (requests, incoming) = mpsc::channel(REQUESTS);
        let (tasks, written) = mpsc::channel(TASKS);
        let (failed, failure) = watch::channel(None);
        let (troubled, trouble) = watch::channel(None);
        let Parts { writer, end, place, current, clock, due, lock } = parts;
        let (closing, closed) = watch::channel(current.projection().err().map(|error| error.to_string()));
        let runtime = || Builder::new_current_thread().enable_time().build();
        let (runtime, waiting) = (runtime()?, runtime()?);
        let scribe = Scribe::new(writer, clock, tasks.clone(), troubled, closed.clone());
        let witness = |thread| Witness { thread, failed: failed.clone() };
        let (over_journal, over_ledger) = (witness("journal"), witness("ledger"));
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let _witness = over_journal;
            // Without the ledger's thread, which says why it ended, there is nothing to do.
            let _ = runtime.block_on(scribe.serve(incoming));
        })?;
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let _witness = over_ledger;
            let mut applier = Applier::new(place, end, current, due, closing, waiting);
            if let Err(error) = applier.run(written) {
                tracing::error!(%error, "the ledger failed; the journal is whole: restart to rebuild the ledger from it");
                let _ = failed.send(Some(error));
            }
            drop(applier);
            drop(lock);
        })?;
        Ok(Self { requests, tasks, failure, trouble, closed })
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
        answered.await.unwrap_or(Err(CommitError::ReadOnly))
    }

    /// The same on a thread that may wait.
    pub fn drain_blocking(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.requests.blocking_send(Request::Drain(answer)).map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Follows why the last group of records could not be written and synced; `None` when it could.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// Follows why the ledger is closed; `None` while it is open.
    pub fn closed(&self) -> watch::Receiver<Option<String>> {
        self.closed.clone()
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

impl Group {
    /// Adds the one behind it.
    pub fn absorb(&mut self, next: Self) {
        self.records.extend(next.records);
        self.answers.extend(next.answers);
        self.position = next.position;
    }
}

/// Records that may wait for the journal thread.
const REQUESTS: usize = 1024;
/// Tasks that may wait for the ledger thread.
const TASKS: usize = 1024;
