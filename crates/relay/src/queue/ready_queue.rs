use mailtrail_mail::TrackingId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Ordered queue of messages ready for workers. It holds ids only, and never more than the scheduler adds.
#[derive(Debug)]
pub struct ReadyQueue {
    state: Mutex<ReadyState>,
    notify: Notify,
    stopping: CancellationToken,
}

/// Messages and idle workers, under one lock: a worker that stops waiting is not counted for a message that
/// arrives at that moment.
#[derive(Debug, Default)]
struct ReadyState {
    ready: VecDeque<TrackingId>,
    idle_workers: usize,
    starting_workers: usize,
}

impl ReadyState {
    /// Returns whether the messages outnumber the idle workers.
    fn needs_worker(&self) -> bool {
        self.ready.len() > self.idle_workers + self.starting_workers
    }
}

impl ReadyQueue {
    /// Creates an empty queue.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { state: Mutex::default(), notify: Notify::new(), stopping }
    }

    /// Adds a message; returns true if no worker is idle for it.
    pub fn push(&self, id: TrackingId) -> bool {
        let mut state = self.state();
        state.ready.push_back(id);
        let needs_worker = state.needs_worker();
        drop(state);
        self.notify.notify_one();
        needs_worker
    }

    /// Puts a message back at the front.
    pub fn push_front(&self, id: TrackingId) {
        self.state().ready.push_front(id);
        self.notify.notify_one();
    }

    /// Reserves a worker that is starting.
    pub fn reserve_worker(&self) {
        self.state().starting_workers += 1;
    }

    /// Records the start of a reserved worker; it asks for work immediately.
    pub fn worker_started(&self) {
        self.state().starting_workers -= 1;
    }

    /// Returns the number of idle workers.
    pub fn idle_workers(&self) -> usize {
        self.state().idle_workers
    }

    /// Returns whether a message waits without an idle worker.
    pub fn has_unclaimed(&self) -> bool {
        self.state().needs_worker()
    }

    /// Returns the next message, unless an idle worker will take it.
    pub fn try_pop(&self) -> Option<TrackingId> {
        let mut state = self.state();
        if state.needs_worker() { state.ready.pop_front() } else { None }
    }

    /// Returns the next message, or `None` after `idle_timeout` without one or on shutdown.
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

    /// Takes a message and leaves the idle workers, or only leaves them if `leave`. `None`: keep waiting.
    fn pop_or_leave(&self, leave: bool) -> Option<Option<TrackingId>> {
        let mut state = self.state();
        let next = if self.stopping.is_cancelled() { None } else { state.ready.pop_front() };
        if next.is_none() && !leave {
            return None;
        }
        state.idle_workers -= 1;
        drop(state);
        // One notification may cover several messages.
        self.notify.notify_one();
        Some(next)
    }

    /// Removes all messages that no worker has taken.
    pub fn drain(&self) -> Vec<TrackingId> {
        self.state().ready.drain(..).collect()
    }

    fn state(&self) -> MutexGuard<'_, ReadyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
