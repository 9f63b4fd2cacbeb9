use crate::id::TrackingId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The sends that workers may take, in order. It holds ids only and never more than the dispatcher puts in.
#[derive(Debug)]
pub struct Work {
    pile: Mutex<Pile>,
    bell: Notify,
    stopping: CancellationToken,
}

/// Under one lock, so that no send is left to a worker that is just leaving.
#[derive(Debug, Default)]
struct Pile {
    ready: VecDeque<TrackingId>,
    waiting_workers: usize,
}

impl Work {
    /// No work yet.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { pile: Mutex::default(), bell: Notify::new(), stopping }
    }

    /// Adds a send; true when no worker waits for it.
    pub fn add(&self, id: TrackingId) -> bool {
        let mut pile = self.pile();
        pile.ready.push_back(id);
        let nobody = pile.ready.len() > pile.waiting_workers;
        drop(pile);
        self.bell.notify_one();
        nobody
    }

    /// Puts a send back in front.
    pub fn put_back(&self, id: TrackingId) {
        self.pile().ready.push_front(id);
        self.bell.notify_one();
    }

    /// The next send, unless a waiting worker will take it.
    pub fn try_next(&self) -> Option<TrackingId> {
        let mut pile = self.pile();
        if pile.ready.len() > pile.waiting_workers { pile.ready.pop_front() } else { None }
    }

    /// The next send, or `None` after `idle_timeout` without one or when we stop.
    pub async fn next(&self, idle_timeout: Duration) -> Option<TrackingId> {
        let deadline = Instant::now() + idle_timeout;
        self.pile().waiting_workers += 1;
        loop {
            let rung = self.bell.notified();
            {
                let mut pile = self.pile();
                let over = self.stopping.is_cancelled() || Instant::now() >= deadline;
                let next = if self.stopping.is_cancelled() { None } else { pile.ready.pop_front() };
                if next.is_some() || over {
                    pile.waiting_workers -= 1;
                    let more = !pile.ready.is_empty();
                    drop(pile);
                    if more {
                        // A ring may have been for several.
                        self.bell.notify_one();
                    }
                    return next;
                }
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                // Rung or too late: the pile tells.
                _ = timeout_at(deadline, rung) => {}
            }
        }
    }

    /// Takes everything out that no worker has begun.
    pub fn clear(&self) -> Vec<TrackingId> {
        self.pile().ready.drain(..).collect()
    }

    fn pile(&self) -> MutexGuard<'_, Pile> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
