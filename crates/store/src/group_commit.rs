//! Group commit: the journal thread writes the journal, and the ledger thread applies the written records.
//! The queue between them is bounded, so a slow ledger slows the writers down instead of filling the memory.

use crate::body::MessageBody;
use crate::commit_command::{CommitError, CommitOptions, JournalCommand, LedgerCommand};
use crate::data_dir_lock::DataDirLock;
use crate::journal::{EncodedRecord, Writer};
use crate::journal_thread::JournalThread;
use crate::ledger::LedgerHandle;
use crate::ledger_paths::LedgerPaths;
use crate::ledger_thread::LedgerThread;
use crate::position::Position;
use crate::record::Record;
use crate::wakeup::Wakeup;
use mailtrail_mail::Clock;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};

/// The writing side of a store.
pub struct CommitPipeline {
    journal_commands: mpsc::Sender<JournalCommand>,
    ledger_commands: mpsc::Sender<LedgerCommand>,
    fatal_error: watch::Receiver<Option<String>>,
    write_errors: watch::Receiver<Option<String>>,
    ledger_closed: watch::Receiver<Option<String>>,
}

/// Inputs of a commit pipeline.
pub struct PipelineParts {
    pub writer: Writer,
    /// End of the journal when it was opened.
    pub end_position: Position,
    pub paths: LedgerPaths,
    pub handle: Arc<LedgerHandle>,
    pub clock: Clock,
    pub queue_wakeup: Wakeup,
    pub lock: Arc<DataDirLock>,
}

impl CommitPipeline {
    /// Starts both threads. They release the ledger after the last [`CommitPipeline`] is dropped, and the
    /// lock after that. The next holder of the lock can therefore open the ledger.
    pub fn start(parts: PipelineParts) -> io::Result<Self> {
        let (journal_commands, incoming) = mpsc::channel(JOURNAL_QUEUE_CAPACITY);
        let (ledger_commands, written) = mpsc::channel(LEDGER_QUEUE_CAPACITY);
        let (failed, fatal_error) = watch::channel(None);
        let (troubled, write_errors) = watch::channel(None);
        let PipelineParts { writer, end_position, paths, handle, clock, queue_wakeup, lock } = parts;
        let (closing, ledger_closed) = watch::channel(handle.load().err().map(|error| error.to_string()));
        let runtime = || Builder::new_current_thread().enable_time().build();
        let (runtime, waiting) = (runtime()?, runtime()?);
        let journal_thread =
            JournalThread::new(writer, clock, ledger_commands.clone(), troubled, ledger_closed.clone());
        let witness = |thread_name| PanicReporter { thread_name, fatal_error: failed.clone() };
        let (over_journal, over_ledger) = (witness("journal"), witness("ledger"));
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let _witness = over_journal;
            // If the ledger thread ended, it has published the reason; there is nothing left to do.
            let _ = runtime.block_on(journal_thread.run(incoming));
        })?;
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let _witness = over_ledger;
            let mut applier = LedgerThread::new(paths, end_position, handle, queue_wakeup, closing, waiting);
            if let Err(error) = applier.run(written) {
                tracing::error!(%error, "ledger failed, journal intact; restart to rebuild the ledger");
                let _ = failed.send(Some(error));
            }
            drop(applier);
            drop(lock);
        })?;
        Ok(Self { journal_commands, ledger_commands, fatal_error, write_errors, ledger_closed })
    }

    /// Commits a record with the given options.
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

    /// Commits a record from a thread that may block; returns when lookups see it.
    pub fn commit_blocking(&self, record: Record) -> Result<(), CommitError> {
        let encoded =
            EncodedRecord::new(record.kind(), record.version(), record.encode(), bytes::Bytes::new().into());
        let (ack, answered) = oneshot::channel();
        let options = CommitOptions::URGENT_APPLIED;
        let request = JournalCommand::Append { record, encoded, options, ack };
        self.journal_commands.blocking_send(request).map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Starts a new segment soon, if the present one holds any record and is at least `age` old.
    pub fn seal_segment(&self, age: Duration) {
        // If the threads have ended, there is nothing to seal.
        let _ = self.journal_commands.blocking_send(JournalCommand::Seal(age));
    }

    /// Sends a command to the ledger thread; blocks while its queue is full.
    pub fn send_to_ledger(&self, task: LedgerCommand) -> Result<(), CommitError> {
        self.ledger_commands.blocking_send(task).map_err(|_| CommitError::ReadOnly)
    }

    /// Returns when everything sent before is applied and the ledger is on stable storage.
    pub async fn drain(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.journal_commands.send(JournalCommand::Drain(answer)).await.map_err(|_| CommitError::ReadOnly)?;
        answered.await.unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Drains like [`Self::drain`], from a thread that may block.
    pub fn drain_blocking(&self) -> Result<(), CommitError> {
        let (answer, answered) = oneshot::channel();
        self.journal_commands
            .blocking_send(JournalCommand::Drain(answer))
            .map_err(|_| CommitError::ReadOnly)?;
        answered.blocking_recv().unwrap_or(Err(CommitError::ReadOnly))
    }

    /// Returns a watch of the last write or sync error; `None` after a success.
    pub fn write_errors(&self) -> watch::Receiver<Option<String>> {
        self.write_errors.clone()
    }

    /// Returns a watch of the reason why the ledger is closed; `None` while it is open.
    pub fn ledger_closed(&self) -> watch::Receiver<Option<String>> {
        self.ledger_closed.clone()
    }

    /// Waits until the ledger fails or a thread panics; returns the reason.
    pub async fn wait_failed(&self) -> String {
        let mut failure = self.fatal_error.clone();
        let reason = failure.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "its threads have ended".to_owned())
    }
}

/// Reports a panicked thread.
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

/// Commands that may wait for the journal thread.
const JOURNAL_QUEUE_CAPACITY: usize = 1024;
/// Commands that may wait for the ledger thread.
const LEDGER_QUEUE_CAPACITY: usize = 1024;
