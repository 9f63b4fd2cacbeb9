use mailtrail_mail::TrackingId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The sends that workers may take, in order. It holds ids only and never more than the dispatcher puts in.
#[derive(Debug)]
pub struct Work {
    desk: Mutex<Desk>,
    bell: Notify,
    stopping: CancellationToken,
}

/// Sends and the workers that wait for them, under one lock: a worker that gives up waiting is not counted on for a
/// send that comes at that moment.
#[derive(Debug, Default)]
struct Desk {
    ready: VecDeque<TrackingId>,
    idle: usize,
    coming: usize,
}

impl Desk {
    /// Whether there is more to do than workers wait for.
    fn lacks_workers(&self) -> bool {
        self.ready.len() > self.idle + self.coming
    }
}

impl Work {
    /// No work yet.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { desk: Mutex::default(), bell: Notify::new(), stopping }
    }

    /// Adds a send; true when no worker waits for it.
    pub fn add(&self, id: TrackingId) -> bool {
        let mut desk = self.desk();
        desk.ready.push_back(id);
        let nobody = desk.lacks_workers();
        drop(desk);
        self.bell.notify_one();
        nobody
    }

    /// Puts a send back in front.
    pub fn put_back(&self, id: TrackingId) {
        self.desk().ready.push_front(id);
        self.bell.notify_one();
    }

    /// A worker is on its way, and is counted on.
    pub fn expect(&self) {
        self.desk().coming += 1;
    }

    /// It is there; it asks for work at once.
    pub fn arrive(&self) {
        self.desk().coming -= 1;
    }

    /// Workers that wait for work.
    pub fn idle(&self) -> usize {
        self.desk().idle
    }

    /// Whether a send lies here that no worker waits for.
    pub fn is_unattended(&self) -> bool {
        self.desk().lacks_workers()
    }

    /// The next send, unless an idle worker will take it.
    pub fn try_next(&self) -> Option<TrackingId> {
        let mut desk = self.desk();
        if desk.lacks_workers() { desk.ready.pop_front() } else { None }
    }

    /// The next send, or `None` after `idle_timeout` without one or when we stop.
    pub async fn next(&self, idle_timeout: Duration) -> Option<TrackingId> {
        let deadline = Instant::now() + idle_timeout;
        self.desk().idle += 1;
        loop {
            let rung = self.bell.notified();
            if let Some(end) = self.take(self.stopping.is_cancelled()) {
                return end;
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                rung = timeout_at(deadline, rung) => if rung.is_err() {
                    return self.take(true).flatten();
                },
            }
        }
    }

    /// Takes a send and with it leaves the idle, or just leaves when it is time to; `None`: go on waiting.
    fn take(&self, leave: bool) -> Option<Option<TrackingId>> {
        let mut desk = self.desk();
        let next = if self.stopping.is_cancelled() { None } else { desk.ready.pop_front() };
        if next.is_none() && !leave {
            return None;
        }
        desk.idle -= 1;
        drop(desk);
        // A ring may have been for several.
        self.bell.notify_one();
        Some(next)
    }

    /// Takes everything out that no worker has begun.
    pub fn clear(&self) -> Vec<TrackingId> {
        self.desk().ready.drain(..).collect()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
