//! The ledger thread: applies what was written, and is the only one that changes the projection.

use super::OpenReport;
use super::commit::{Group, Task};
use super::rebuild::{discard, remove};
use super::replay::{self, chain, up_to};
use super::sled::{Current, Projection};
use crate::wakeup::Wakeup;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

/// The ledger thread's work.
pub struct Applier {
    journal: PathBuf,
    projection: Arc<Projection>,
    current: Arc<Current>,
    due: Wakeup,
    /// Came while groups were gathered.
    held: Option<Task>,
    waiting: Runtime,
}

impl Applier {
    /// One that changes the projection in use; what it waits for, it waits for on `waiting`.
    pub fn new(journal: PathBuf, current: Arc<Current>, due: Wakeup, waiting: Runtime) -> Self {
        Self { journal, projection: current.projection(), current, due, held: None, waiting }
    }

    /// Works until nobody can hand it anything; then everything is durable.
    pub fn run(&mut self, mut tasks: mpsc::Receiver<Task>) -> Result<(), String> {
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

/// Records applied in one batch, from which on no further group is added.
const APPLY_RECORDS: usize = 200;
/// How much replay a restart may cost.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
