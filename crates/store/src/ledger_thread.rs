//! The ledger thread: applies committed records. It is the only writer of the ledger.
//!
//! If the ledger cannot be written for now, it is closed: lookups return the reason, and it is reopened as
//! soon as possible. The journal has everything that was applied, so losing the in-memory changes loses no
//! data.

use crate::commit_command::{CommitError, CommittedGroup, LedgerCommand};
use crate::disk_space::RESERVED_BYTES;
use crate::ledger::{Ledger, LedgerError, LedgerHandle};
use crate::ledger_paths::{LedgerPaths, MIN_FREE_BYTES, discard_ledger, remove_ledger_dir};
use crate::open_error::OpenError;
use crate::position::Position;
use crate::replay::{OpenReport, replay_journal, segment_chain, truncate_at};
use crate::shortage::{check_free_space, check_writable};
use crate::wakeup::Wakeup;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout_at;

/// State of the ledger thread.
pub struct LedgerThread {
    paths: LedgerPaths,
    /// Position up to which the journal is applied, or must be applied when the ledger is reopened.
    position: Position,
    handle: Arc<LedgerHandle>,
    queue_wakeup: Wakeup,
    /// Reason why the ledger is closed, if it is.
    closed_reason: watch::Sender<Option<String>>,
    /// Command that was received while groups were gathered.
    held_command: Option<LedgerCommand>,
    runtime: Runtime,
}

/// Reason why work on a ledger ended.
enum LoopEnd {
    /// All senders are gone.
    Finished,
    /// The ledger cannot be written now, with the reason.
    Unwritable(String),
}

impl LedgerThread {
    /// Creates the thread's state for the open ledger, to which the journal is applied up to `position`. It waits
    /// on `runtime`.
    pub fn new(
        paths: LedgerPaths,
        position: Position,
        handle: Arc<LedgerHandle>,
        queue_wakeup: Wakeup,
        closed_reason: watch::Sender<Option<String>>,
        runtime: Runtime,
    ) -> Self {
        Self { paths, position, handle, queue_wakeup, closed_reason, held_command: None, runtime }
    }

    /// Runs until all senders are gone; then everything is durable.
    pub fn run(&mut self, mut tasks: mpsc::Receiver<LedgerCommand>) -> Result<(), String> {
        loop {
            if let Ok(ledger) = self.handle.load() {
                let ended = OpenLedger { thread: self, ledger }.run(&mut tasks);
                match ended {
                    Ok(LoopEnd::Finished) => return Ok(()),
                    Ok(LoopEnd::Unwritable(reason)) => self.close_ledger(&reason),
                    Err(error) => return Err(error.to_string()),
                }
            }
            if self.wait_closed(&mut tasks)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Closes the ledger: sled does nothing more after a failed write.
    fn close_ledger(&self, reason: &str) {
        tracing::error!(
            reason,
            "the ledger cannot be written: it is closed, and no mail is taken until it can be"
        );
        let ledger = self.handle.close(format!("it is closed, because it could not be written: {reason}"));
        self.closed_reason.send_replace(Some(reason.to_owned()));
        // sled may panic while it closes.
        let _ = std::thread::spawn(move || drop(ledger)).join();
    }

    /// Waits until the ledger is open again, or until all senders are gone.
    fn wait_closed(&mut self, tasks: &mut mpsc::Receiver<LedgerCommand>) -> Result<ControlFlow<()>, String> {
        let mut next_try = Instant::now() + REOPEN_INTERVAL;
        loop {
            let waited = match self.held_command.take() {
                Some(held) => Ok(Some(held)),
                None => self.runtime.block_on(async { timeout_at(next_try.into(), tasks.recv()).await }),
            };
            match waited {
                Ok(None) => return Ok(ControlFlow::Break(())),
                Ok(Some(task)) => self.handle_while_closed(task),
                Err(_) => {
                    if self.try_reopen()? {
                        return Ok(ControlFlow::Continue(()));
                    }
                    next_try = Instant::now() + REOPEN_INTERVAL;
                }
            }
        }
    }

    /// Handles a command while the ledger is closed. Records stay in the journal and are applied after
    /// reopening; maintenance is repeated later.
    fn handle_while_closed(&mut self, task: LedgerCommand) {
        match task {
            LedgerCommand::Apply(group, _room) => {
                self.position = group.position;
                acknowledge(group);
            }
            LedgerCommand::Checkpoint(answer) => {
                let reason = self.closed_reason.borrow().clone().unwrap_or_default();
                let _ = answer.send(Err(CommitError::Ledger(reason)));
            }
            LedgerCommand::ReplaceLedger(ledger) => discard_ledger(*ledger),
            LedgerCommand::ExpireMessages(..)
            | LedgerCommand::DeleteKeys(_)
            | LedgerCommand::ExpireEvidence(..)
            | LedgerCommand::AccountGarbage(..) => {}
        }
    }

    /// Tries to reopen the ledger; returns false if a temporary reason prevents it.
    fn try_reopen(&self) -> Result<bool, String> {
        let opened = check_writable(&self.paths.ledger_dir, RESERVED_BYTES)
            .map_err(|error| OpenError::Shortage {
                path: self.paths.ledger_dir.clone(),
                reason: error.to_string(),
            })
            .and_then(|()| self.reopen_ledger());
        match opened {
            Ok(ledger) => {
                self.handle.replace(ledger);
                self.closed_reason.send_replace(None);
                tracing::info!("ledger reopened");
                self.queue_wakeup.notify();
                Ok(true)
            }
            Err(error) if error.is_shortage() => {
                tracing::debug!(%error, "the ledger cannot be opened yet");
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn reopen_ledger(&self) -> Result<Ledger, OpenError> {
        let journal = &self.paths.journal_dir;
        let chain =
            segment_chain(journal).map_err(|source| OpenError::Io { path: journal.clone(), source })?;
        let (chain, mut report) = (truncate_at(chain, self.position), OpenReport::default());
        let (ledger, _) = self.paths.open_and_replay(&chain, REBUILD_THREADS, &mut report, &mut |_| {})?;
        Ok(ledger)
    }
}

/// Work on an open ledger.
struct OpenLedger<'a> {
    thread: &'a mut LedgerThread,
    ledger: Arc<Ledger>,
}

impl OpenLedger<'_> {
    /// Runs until all senders are gone and everything is durable, or until the ledger cannot be written.
    fn run(&mut self, tasks: &mut mpsc::Receiver<LedgerCommand>) -> Result<LoopEnd, LedgerError> {
        match self.process_commands(tasks) {
            Ok(()) => Ok(LoopEnd::Finished),
            Err(error) if error.is_shortage() => Ok(LoopEnd::Unwritable(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn process_commands(&mut self, tasks: &mut mpsc::Receiver<LedgerCommand>) -> Result<(), LedgerError> {
        let mut checkpointed = Instant::now();
        while let Some(task) = self.next_command(tasks)? {
            match task {
                LedgerCommand::Apply(group, _room) => self.apply_group(group)?,
                LedgerCommand::ExpireMessages(sends, before) => {
                    self.ledger.expire_messages(&sends, before)?
                }
                LedgerCommand::DeleteKeys(keys) => self.ledger.delete_keys(keys),
                LedgerCommand::ExpireEvidence(keys, before) => self.ledger.expire_evidence(keys, before)?,
                LedgerCommand::AccountGarbage(segment, bytes) => {
                    self.ledger.subtract_garbage(segment, bytes)?
                }
                LedgerCommand::ReplaceLedger(ledger) => self.replace_ledger(*ledger),
                LedgerCommand::Checkpoint(answer) => {
                    let done = self.checkpoint();
                    let result =
                        done.as_ref().map(|_| ()).map_err(|error| CommitError::Ledger(error.to_string()));
                    let _ = answer.send(result);
                    done?;
                }
            }
            if self.ledger.is_full() || self.ledger.flush_due().is_some_and(|due| due <= Instant::now()) {
                self.flush()?;
            }
            if checkpointed.elapsed() >= CHECKPOINT_INTERVAL {
                self.checkpoint()?;
                checkpointed = Instant::now();
            }
        }
        self.checkpoint()
    }

    /// Returns the next command; groups that are already waiting are merged.
    fn next_command(
        &mut self,
        tasks: &mut mpsc::Receiver<LedgerCommand>,
    ) -> Result<Option<LedgerCommand>, LedgerError> {
        let mut task = match self.thread.held_command.take() {
            Some(held) => Some(held),
            None => self.wait_for_command(tasks)?,
        };
        if let Some(LedgerCommand::Apply(group, permits)) = &mut task {
            while group.records.len() < MAX_APPLY_RECORDS && self.thread.held_command.is_none() {
                match tasks.try_recv() {
                    Ok(LedgerCommand::Apply(next, more)) => {
                        group.merge(next);
                        permits.merge(more);
                    }
                    Ok(other) => self.thread.held_command = Some(other),
                    Err(_) => break,
                }
            }
        }
        Ok(task)
    }

    /// Waits for a command; applied changes are still flushed on time.
    fn wait_for_command(
        &self,
        tasks: &mut mpsc::Receiver<LedgerCommand>,
    ) -> Result<Option<LedgerCommand>, LedgerError> {
        if let Some(due) = self.ledger.flush_due() {
            let task = self.thread.runtime.block_on(async { timeout_at(due.into(), tasks.recv()).await });
            if let Ok(task) = task {
                return Ok(task);
            }
            self.flush()?;
        }
        Ok(tasks.blocking_recv())
    }

    /// Refuses a nearly full disk: sled may be unable to read what it could not write completely.
    fn flush(&self) -> Result<(), LedgerError> {
        check_free_space(&self.thread.paths.ledger_dir, MIN_FREE_BYTES)?;
        Ok(self.ledger.flush()?)
    }

    fn checkpoint(&self) -> Result<(), LedgerError> {
        if self.ledger.flush_due().is_some() {
            self.flush()?;
        }
        self.ledger.checkpoint()
    }

    fn apply_group(&mut self, group: CommittedGroup) -> Result<(), LedgerError> {
        self.thread.position = group.position;
        let applied = self.ledger.apply_records(&group.records, group.position).map_err(LedgerError::from);
        if applied.as_ref().is_err_and(|error| !error.is_shortage()) {
            return applied;
        }
        if group.records.iter().any(|record| record.record.may_schedule_attempt()) {
            self.thread.queue_wakeup.notify();
        }
        // The records are durable; lookups see them once the ledger can be read.
        acknowledge(group);
        applied
    }

    /// Discards a ledger that cannot be brought up to date; the present one stays in use.
    fn replace_ledger(&mut self, ledger: Ledger) {
        match self.catch_up(&ledger) {
            Ok(()) => {
                let old = self.thread.handle.replace(ledger);
                if let Ok(new) = self.thread.handle.load() {
                    self.ledger = new;
                }
                if let Some(old) = old {
                    remove_ledger_dir(old.directory());
                }
            }
            Err(error) => {
                tracing::error!(error, "the ledger that was built anew cannot be used; the old one goes on");
                discard_ledger(ledger);
            }
        }
    }

    fn catch_up(&self, ledger: &Ledger) -> Result<(), String> {
        let position = self.ledger.position().map_err(|error| error.to_string())?.unwrap_or_default();
        let journal = &self.thread.paths.journal_dir;
        let chain = segment_chain(journal).map_err(|error| error.to_string())?;
        let chain = truncate_at(chain, position);
        replay_journal(journal, &chain, ledger, 1, &mut OpenReport::default(), &mut |_| {})
            .map_err(|error| error.to_string())?;
        ledger.checkpoint().map_err(|error| error.to_string())
    }
}

fn acknowledge(group: CommittedGroup) {
    for answer in group.acks {
        let _ = answer.send(Ok(()));
    }
}

/// Records applied in one batch, after which no further group is added.
const MAX_APPLY_RECORDS: usize = 200;
/// Interval of checkpoints; it bounds the replay after a restart.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between attempts to reopen a ledger.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);
/// Threads that write a ledger built from nothing.
const REBUILD_THREADS: usize = 2;
