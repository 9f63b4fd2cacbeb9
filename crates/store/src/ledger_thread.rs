//! The ledger thread: applies what was written, and is the only one that changes the projection.
//!
//! Where the projection cannot be written for now, it is closed: nothing is taken, lookups say why, and it is opened
//! again as soon as it can be. The journal has all that was applied, so nothing is lost with what was in memory.

use crate::disk_space::LEFT_FREE;
use crate::group_commit::{CommitError, Group, Task};
use crate::journal::Place;
use crate::ledger::{Current, Projection, ProjectionError};
use crate::open::{LEAST_ROOM, LedgerPlace, OpenError, OpenReport};
use crate::rebuild::{discard, remove};
use crate::replay;
use crate::replay::{chain, up_to};
use crate::shortage::{leave_room, try_to_write};
use crate::wakeup::Wakeup;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout_at;

/// The ledger thread's work.
pub struct Applier {
    place: LedgerPlace,
    /// Up to where the journal is applied, or is to be when the projection is opened again.
    end: Place,
    current: Arc<Current>,
    due: Wakeup,
    /// Why the projection is closed, if it is.
    closed: watch::Sender<Option<String>>,
    /// Came while groups were gathered.
    held: Option<Task>,
    waiting: Runtime,
}

/// How work on a projection came to its end.
enum Ended {
    /// Nobody can hand anything over any more.
    Orderly,
    /// The projection cannot be written now, for that reason.
    Shortage(String),
}

impl Applier {
    /// One that changes the projection in use, to which the journal is applied up to `end`; what it waits for, it waits
    /// for on `waiting`.
    pub fn new(
        place: LedgerPlace,
        end: Place,
        current: Arc<Current>,
        due: Wakeup,
        closed: watch::Sender<Option<String>>,
        waiting: Runtime,
    ) -> Self {
        Self { place, end, current, due, closed, held: None, waiting }
    }

    /// Works until nobody can hand it anything; then everything is durable.
    pub fn run(&mut self, mut tasks: mpsc::Receiver<Task>) -> Result<(), String> {
        loop {
            if let Ok(projection) = self.current.projection() {
                let ended = Open { applier: self, projection }.work(&mut tasks);
                match ended {
                    Ok(Ended::Orderly) => return Ok(()),
                    Ok(Ended::Shortage(reason)) => self.close(&reason),
                    Err(error) => return Err(error.to_string()),
                }
            }
            if self.wait_closed(&mut tasks)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Lets go of the projection: sled does nothing more after a write that failed.
    fn close(&self, reason: &str) {
        tracing::error!(
            reason,
            "the ledger cannot be written: it is closed, and no mail is taken until it can be"
        );
        let projection =
            self.current.close(format!("it is closed, because it could not be written: {reason}"));
        self.closed.send_replace(Some(reason.to_owned()));
        // sled may panic on its way out.
        let _ = std::thread::spawn(move || drop(projection)).join();
    }

    /// Waits until the projection is open again; ends where nobody can hand anything over any more.
    fn wait_closed(&mut self, tasks: &mut mpsc::Receiver<Task>) -> Result<ControlFlow<()>, String> {
        let mut next_try = Instant::now() + TRY_AGAIN;
        loop {
            let waited = match self.held.take() {
                Some(held) => Ok(Some(held)),
                None => self.waiting.block_on(async { timeout_at(next_try.into(), tasks.recv()).await }),
            };
            match waited {
                Ok(None) => return Ok(ControlFlow::Break(())),
                Ok(Some(task)) => self.pass_over(task),
                Err(_) => {
                    if self.open_again()? {
                        return Ok(ControlFlow::Continue(()));
                    }
                    next_try = Instant::now() + TRY_AGAIN;
                }
            }
        }
    }

    /// What is handed over while the projection is closed. Records are kept, and applied when it is open; upkeep is done
    /// again later.
    fn pass_over(&mut self, task: Task) {
        match task {
            Task::Apply(group, _room) => {
                self.end = group.position;
                answer(group);
            }
            Task::Checkpoint(answer) => {
                let reason = self.closed.borrow().clone().unwrap_or_default();
                let _ = answer.send(Err(CommitError::Ledger(reason)));
            }
            Task::Replace(projection) => discard(*projection),
            Task::Forget(..) | Task::Delete(_) | Task::ForgetDossiers(..) | Task::Dropped(..) => {}
        }
    }

    /// False while it cannot be opened for the reason that it was closed for, or another that passes.
    fn open_again(&self) -> Result<bool, String> {
        let opened = try_to_write(&self.place.ledger, LEFT_FREE)
            .map_err(|error| OpenError::Shortage {
                path: self.place.ledger.clone(),
                reason: error.to_string(),
            })
            .and_then(|()| self.bring_up());
        match opened {
            Ok(projection) => {
                self.current.replace(projection);
                self.closed.send_replace(None);
                tracing::info!("the ledger is open again");
                self.due.ring();
                Ok(true)
            }
            Err(error) if error.is_shortage() => {
                tracing::debug!(%error, "the ledger cannot be opened yet");
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn bring_up(&self) -> Result<Projection, OpenError> {
        let journal = &self.place.journal;
        let chain = chain(journal).map_err(|source| OpenError::Io { path: journal.clone(), source })?;
        let (chain, mut report) = (up_to(chain, self.end), OpenReport::default());
        let (projection, _) = self.place.bring_up(&chain, THREADS, &mut report, &mut |_| {})?;
        Ok(projection)
    }
}

/// A projection that is worked on.
struct Open<'a> {
    applier: &'a mut Applier,
    projection: Arc<Projection>,
}

impl Open<'_> {
    /// Works until nobody can hand it anything, and everything is durable, or until the projection cannot be written.
    fn work(&mut self, tasks: &mut mpsc::Receiver<Task>) -> Result<Ended, ProjectionError> {
        match self.work_on(tasks) {
            Ok(()) => Ok(Ended::Orderly),
            Err(error) if error.is_shortage() => Ok(Ended::Shortage(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn work_on(&mut self, tasks: &mut mpsc::Receiver<Task>) -> Result<(), ProjectionError> {
        let mut checkpointed = Instant::now();
        while let Some(task) = self.next(tasks)? {
            match task {
                Task::Apply(group, _room) => self.apply(group)?,
                Task::Forget(sends, before) => self.projection.forget(&sends, before)?,
                Task::Delete(keys) => self.projection.delete(keys),
                Task::ForgetDossiers(keys, before) => self.projection.forget_dossiers(keys, before)?,
                Task::Dropped(segment, bytes) => self.projection.dropped(segment, bytes)?,
                Task::Replace(projection) => self.replace(*projection),
                Task::Checkpoint(answer) => {
                    let done = self.checkpoint();
                    let told =
                        done.as_ref().map(|_| ()).map_err(|error| CommitError::Ledger(error.to_string()));
                    let _ = answer.send(told);
                    done?;
                }
            }
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
    fn next(&mut self, tasks: &mut mpsc::Receiver<Task>) -> Result<Option<Task>, ProjectionError> {
        let mut task = match self.applier.held.take() {
            Some(held) => Some(held),
            None => self.wait(tasks)?,
        };
        if let Some(Task::Apply(group, room)) = &mut task {
            while group.records.len() < APPLY_RECORDS && self.applier.held.is_none() {
                match tasks.try_recv() {
                    Ok(Task::Apply(next, more)) => {
                        group.absorb(next);
                        room.merge(more);
                    }
                    Ok(other) => self.applier.held = Some(other),
                    Err(_) => break,
                }
            }
        }
        Ok(task)
    }

    /// Waits for something to do; what was applied is not kept waiting.
    fn wait(&self, tasks: &mut mpsc::Receiver<Task>) -> Result<Option<Task>, ProjectionError> {
        if let Some(due) = self.projection.flush_due() {
            let task = self.applier.waiting.block_on(async { timeout_at(due.into(), tasks.recv()).await });
            if let Ok(task) = task {
                return Ok(task);
            }
            self.flush()?;
        }
        Ok(tasks.blocking_recv())
    }

    /// Not on a disk that is nearly full: what sled cannot write whole, it may not be able to read.
    fn flush(&self) -> Result<(), ProjectionError> {
        leave_room(&self.applier.place.ledger, LEAST_ROOM)?;
        Ok(self.projection.flush()?)
    }

    fn checkpoint(&self) -> Result<(), ProjectionError> {
        if self.projection.flush_due().is_some() {
            self.flush()?;
        }
        self.projection.checkpoint()
    }

    fn apply(&mut self, group: Group) -> Result<(), ProjectionError> {
        self.applier.end = group.position;
        let applied = self.projection.apply(&group.records, group.position).map_err(ProjectionError::from);
        if applied.as_ref().is_err_and(|error| !error.is_shortage()) {
            return applied;
        }
        if group.records.iter().any(|kept| kept.record.may_be_due()) {
            self.applier.due.ring();
        }
        // They are kept, and lookups see them as soon as there are any.
        answer(group);
        applied
    }

    /// One that cannot be brought up to date is left, and the present one goes on.
    fn replace(&mut self, projection: Projection) {
        match self.bring_up_to_date(&projection) {
            Ok(()) => {
                let old = self.applier.current.replace(projection);
                if let Ok(new) = self.applier.current.projection() {
                    self.projection = new;
                }
                if let Some(old) = old {
                    remove(old.directory());
                }
            }
            Err(error) => {
                tracing::error!(error, "the ledger that was built anew cannot be used; the old one goes on");
                discard(projection);
            }
        }
    }

    fn bring_up_to_date(&self, projection: &Projection) -> Result<(), String> {
        let position = self.projection.position().map_err(|error| error.to_string())?.unwrap_or_default();
        let journal = &self.applier.place.journal;
        let chain = chain(journal).map_err(|error| error.to_string())?;
        let chain = up_to(chain, position);
        replay::replay(journal, &chain, projection, 1, &mut OpenReport::default(), &mut |_| {})
            .map_err(|error| error.to_string())?;
        projection.checkpoint().map_err(|error| error.to_string())
    }
}

fn answer(group: Group) {
    for answer in group.answers {
        let _ = answer.send(Ok(()));
    }
}

/// Records applied in one batch, from which on no further group is added.
const APPLY_RECORDS: usize = 200;
/// How much replay a restart may cost.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// Time between two tries to open a projection again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Threads that write one that is made from nothing.
const THREADS: usize = 2;
