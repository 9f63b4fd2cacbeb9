use crate::id::TrackingId;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The sends that workers may take, in order. It holds ids only and never more than the dispatcher puts in.
#[derive(Debug)]
pub struct Work {
    ready: Mutex<VecDeque<TrackingId>>,
    bell: Notify,
    idle: AtomicUsize,
    stopping: CancellationToken,
}

impl Work {
    /// No work yet.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { ready: Mutex::default(), bell: Notify::new(), idle: AtomicUsize::new(0), stopping }
    }

    /// Adds a send; true when no worker waits for it.
    pub fn add(&self, id: TrackingId) -> bool {
        let mut ready = self.lock();
        ready.push_back(id);
        let nobody = ready.len() > self.idle.load(Ordering::Acquire);
        drop(ready);
        self.bell.notify_one();
        nobody
    }

    /// Puts a send back in front.
    pub fn put_back(&self, id: TrackingId) {
        self.lock().push_front(id);
        self.bell.notify_one();
    }

    /// The next send, unless an idle worker will take it.
    pub fn try_next(&self) -> Option<TrackingId> {
        let mut ready = self.lock();
        if ready.len() > self.idle.load(Ordering::Acquire) { ready.pop_front() } else { None }
    }

    /// The next send, or `None` after `idle_timeout` without one or when we stop.
    pub async fn next(&self, idle_timeout: Duration) -> Option<TrackingId> {
        let deadline = Instant::now() + idle_timeout;
        self.idle.fetch_add(1, Ordering::AcqRel);
        let next = self.wait(deadline).await;
        self.idle.fetch_sub(1, Ordering::AcqRel);
        next
    }

    async fn wait(&self, deadline: Instant) -> Option<TrackingId> {
        loop {
            if self.stopping.is_cancelled() {
                return None;
            }
            let rung = self.bell.notified();
            if let Some(id) = self.lock().pop_front() {
                // A ring may have been for several.
                self.bell.notify_one();
                return Some(id);
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                rung = timeout_at(deadline, rung) => if rung.is_err() {
                    return self.lock().pop_front();
                },
            }
        }
    }

    /// Takes everything out that no worker has begun.
    pub fn clear(&self) -> Vec<TrackingId> {
        self.lock().drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<TrackingId>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
