//! Group commit: one thread, the [`Scribe`], writes the journal, one, the [`Applier`], applies what was written. What
//! waits between them is bounded, so a slow projection slows the writers down instead of filling the memory.

use crate::body::MessageBody;
use crate::data_dir_lock::DataDirLock;
use crate::journal::{EncodedRecord, Position, Writer};
use crate::journal_thread::JournalThread;
use crate::ledger::{Ledger, LedgerHandle};
use crate::ledger_thread::LedgerThread;
use crate::open::LedgerPaths;
use crate::record::{JournalRecord, Record};
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
    Journal(String),
    /// The ledger cannot be written now.
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
    /// The store was opened for reading, or has failed.
    #[error("the store takes nothing: it was opened for reading, or it has failed")]
    ReadOnly,
}

/// The writing side of a store.
pub struct CommitPipeline {
    journal_commands: mpsc::Sender<JournalCommand>,
    ledger_commands: mpsc::Sender<LedgerCommand>,
    fatal_error: watch::Receiver<Option<String>>,
    write_errors: watch::Receiver<Option<String>>,
    ledger_closed: watch::Receiver<Option<String>>,
}

/// What a committer works with.
pub struct PipelineParts {
    pub writer: Writer,
    /// Where the journal ended when it was opened.
    pub end_position: Position,
    pub paths: LedgerPaths,
    pub handle: Arc<LedgerHandle>,
    pub clock: Clock,
    pub queue_wakeup: Wakeup,
    pub lock: Arc<DataDirLock>,
}

/// How a record is to be committed.
#[derive(Clone, Copy, Debug)]
pub struct CommitOptions {
    /// Whether it is written at once, or with the next that is.
    pub urgent: bool,
    /// Whether lookups must see it before anybody is told.
    pub wait_applied: bool,
}

/// What the journal thread does.
pub enum JournalCommand {
    /// Keeps a record.
    Append {
        /// What it says.
        record: Record,
        /// What is written.
        encoded: EncodedRecord,
        /// How.
        options: CommitOptions,
        /// Who waits.
        ack: Ack,
    },
    /// A new segment, if the present one holds anything and is at least that old.
    Seal(Duration),
    /// Everything before is to be applied and durable.
    Drain(Ack),
}

/// Who waits for a record.
pub type Ack = oneshot::Sender<Result<(), CommitError>>;

/// What the ledger thread does, in order.
pub enum LedgerCommand {
    /// Applies records that are on stable storage, and gives their room back.
    Apply(CommittedGroup, OwnedSemaphorePermit),
    /// Takes out sends that are over since before that time.
    ExpireMessages(Vec<TrackingId>, Timestamp),
    /// Takes out rows.
    DeleteKeys(Vec<Vec<u8>>),
    /// Takes out dossiers of which nothing is needed any more since before that time.
    ExpireEvidence(Vec<Vec<u8>>, Timestamp),
    /// That many bytes of finished messages left that segment of the journal.
    AccountGarbage(u32, u64),
    /// Goes on with another projection, once it is brought up to this one.
    ReplaceLedger(Box<Ledger>),
    /// Makes everything so far durable and says so.
    Checkpoint(Ack),
}

/// Records that are on stable storage.
pub struct CommittedGroup {
    pub records: Vec<JournalRecord>,
    /// Who waits until they are applied.
    pub acks: Vec<Ack>,
    /// The journal's end behind them.
    pub position: Position,
}

impl CommitPipeline {
    /// Starts both threads. They let go of the projection after the last [`Committer`] is gone, and of the lock after
    /// that: whoever gets the lock next can open the projection.
    pub fn start(parts: PipelineParts) -> io::Result<Self> {
        let (journal_commands, incoming) = mpsc::channel(JOURNAL_QUEUE_CAPACITY);
        let (ledger_commands, written) = mpsc::channel(LEDGER_QUEUE_CAPACITY);
        let (failed, fatal_error) = watch::channel(None);
        let (troubled, write_errors) = watch::channel(None);
        let PipelineParts { writer, end_position, paths, handle, clock, queue_wakeup, lock } = parts;
        let (closing, ledger_closed) = watch::channel(handle.load().err().map(|error| error.to_string()));
        let runtime = || Builder::new_current_thread().enable_time().build();
        let (runtime, waiting) = (runtime()?, runtime()?);
        let scribe =
            JournalThread::new(writer, clock, ledger_commands.clone(), troubled, ledger_closed.clone());
        let witness = |thread_name| PanicReporter { thread_name, fatal_error: failed.clone() };
        let (over_journal, over_ledger) = (witness("journal"), witness("ledger"));
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let _witness = over_journal;
            // Without the ledger's thread, which says why it ended, there is nothing to do.
            let _ = runtime.block_on(scribe.run(incoming));
        })?;
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let _witness = over_ledger;
            let mut applier = LedgerThread::new(paths, end_position, handle, queue_wakeup, closing, waiting);
            if let Err(error) = applier.run(written) {
                tracing::error!(%error, "the ledger failed; the journal is whole: restart to rebuild the ledger from it");
                let _ = failed.send(Some(error));
            }
            drop(applier);
            drop(lock);
        })?;
        Ok(Self { journal_commands, ledger_commands, fatal_error, write_errors, ledger_closed })
    }

    /// Returns when the record is kept as wished.
    pub async fn commit(
        &self,
        record: Record,
        body: impl Into<MessageBody>,
        options: CommitOptions,
    ) -> Result<(), CommitError> {
        let encoded = EncodedRecord::new(record.kind(), record.version(), record.encode(), body.into());
        let (ack, answered) = oneshot::channel();
        let request = JournalCommand::Append { record, encoded, options, ack };
        self.journal_commands.send(request).await.map_err(|_| CommitError::ReadOnly)?;
        answered.await.unwrap_or(Err(CommitError::ReadOnly))
    }

    /// The same on a thread that may wait: returns when lookups see the record.
    pub fn commit_blocking(&self, record: Record) -> Result<(), CommitError> {
        let encoded =
            EncodedRecord::new(record.kind(), record.version(), record.encode(), bytes::Bytes::new().into());
        let (ack, answered) = oneshot::channel();
        let options = CommitOptions { urgent: true, wait_applied: true };
        let request = JournalCommand::Append { record, encoded, options, ack };
        self.journal_commands.blocking_send(request).map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Goes on with a new segment soon, if the present one holds anything and is at least `age` old.
    pub fn seal_segment(&self, age: Duration) {
        // When the threads are gone there is nothing to seal.
        let _ = self.journal_commands.blocking_send(JournalCommand::Seal(age));
    }

    /// Hands the ledger thread something to do; it waits while there is much.
    pub fn send_to_ledger(&self, task: LedgerCommand) -> Result<(), CommitError> {
        self.ledger_commands.blocking_send(task).map_err(|_| CommitError::ReadOnly)
    }

    /// Returns when everything sent before is applied and the projection is on stable storage.
    pub async fn drain(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.journal_commands.send(JournalCommand::Drain(answer)).await.map_err(|_| CommitError::ReadOnly)?;
        answered.await.unwrap_or(Err(CommitError::ReadOnly))
    }

    /// The same on a thread that may wait.
    pub fn drain_blocking(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.journal_commands
            .blocking_send(JournalCommand::Drain(answer))
            .map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Follows why the last group of records could not be written and synced; `None` when it could.
    pub fn write_errors(&self) -> watch::Receiver<Option<String>> {
        self.write_errors.clone()
    }

    /// Follows why the ledger is closed; `None` while it is open.
    pub fn ledger_closed(&self) -> watch::Receiver<Option<String>> {
        self.ledger_closed.clone()
    }

    /// Waits for the projection to fail, or for a thread to break.
    pub async fn wait_failed(&self) -> String {
        let mut failure = self.fatal_error.clone();
        let reason = failure.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "its threads have ended".to_owned())
    }
}

/// Tells of a thread that broke.
struct PanicReporter {
    thread_name: &'static str,
    fatal_error: watch::Sender<Option<String>>,
}

impl Drop for PanicReporter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.fatal_error.send(Some(format!("the {}'s thread broke", self.thread_name)));
        }
    }
}

impl CommittedGroup {
    /// Adds the one behind it.
    pub fn merge(&mut self, next: Self) {
        self.records.extend(next.records);
        self.acks.extend(next.acks);
        self.position = next.position;
    }
}

/// Records that may wait for the journal thread.
const JOURNAL_QUEUE_CAPACITY: usize = 1024;
/// Tasks that may wait for the ledger thread.
const LEDGER_QUEUE_CAPACITY: usize = 1024;
