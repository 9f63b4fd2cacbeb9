use mailtrail_mail::TrackingId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The sends that workers may take, in order. It holds ids only and never more than the dispatcher puts in.
#[derive(Debug)]
pub struct ReadyQueue {
    state: Mutex<ReadyState>,
    notify: Notify,
    stopping: CancellationToken,
}

/// Sends and the workers that wait for them, under one lock: a worker that gives up waiting is not counted on for a
/// send that comes at that moment.
#[derive(Debug, Default)]
struct ReadyState {
    ready: VecDeque<TrackingId>,
    idle_workers: usize,
    starting_workers: usize,
}

impl ReadyState {
    /// Whether there is more to do than workers wait for.
    fn needs_worker(&self) -> bool {
        self.ready.len() > self.idle_workers + self.starting_workers
    }
}

impl ReadyQueue {
    /// No work yet.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { state: Mutex::default(), notify: Notify::new(), stopping }
    }

    /// Adds a send; true when no worker waits for it.
    pub fn push(&self, id: TrackingId) -> bool {
        let mut desk = self.state();
        desk.ready.push_back(id);
        let nobody = desk.needs_worker();
        drop(desk);
        self.notify.notify_one();
        nobody
    }

    /// Puts a send back in front.
    pub fn push_front(&self, id: TrackingId) {
        self.state().ready.push_front(id);
        self.notify.notify_one();
    }

    /// A worker is on its way, and is counted on.
    pub fn reserve_worker(&self) {
        self.state().starting_workers += 1;
    }

    /// It is there; it asks for work at once.
    pub fn worker_started(&self) {
        self.state().starting_workers -= 1;
    }

    /// Workers that wait for work.
    pub fn idle_workers(&self) -> usize {
        self.state().idle_workers
    }

    /// Whether a send lies here that no worker waits for.
    pub fn has_unclaimed(&self) -> bool {
        self.state().needs_worker()
    }

    /// The next send, unless an idle worker will take it.
    pub fn try_pop(&self) -> Option<TrackingId> {
        let mut desk = self.state();
        if desk.needs_worker() { desk.ready.pop_front() } else { None }
    }

    /// The next send, or `None` after `idle_timeout` without one or when we stop.
    pub async fn next_ready(&self, idle_timeout: Duration) -> Option<TrackingId> {
        let deadline = Instant::now() + idle_timeout;
        self.state().idle_workers += 1;
        loop {
            let rung = self.notify.notified();
            if let Some(end) = self.pop_or_leave(self.stopping.is_cancelled()) {
                return end;
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                rung = timeout_at(deadline, rung) => if rung.is_err() {
                    return self.pop_or_leave(true).flatten();
                },
            }
        }
    }

    /// Takes a send and with it leaves the idle, or just leaves when it is time to; `None`: go on waiting.
    fn pop_or_leave(&self, leave: bool) -> Option<Option<TrackingId>> {
        let mut desk = self.state();
        let next = if self.stopping.is_cancelled() { None } else { desk.ready.pop_front() };
        if next.is_none() && !leave {
            return None;
        }
        desk.idle_workers -= 1;
        drop(desk);
        // A ring may have been for several.
        self.notify.notify_one();
        Some(next)
    }

    /// Takes everything out that no worker has begun.
    pub fn drain(&self) -> Vec<TrackingId> {
        self.state().ready.drain(..).collect()
    }

    fn state(&self) -> MutexGuard<'_, ReadyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
