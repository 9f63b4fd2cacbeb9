//! A background task that starts only after its predecessor has ended.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handle of a background task that its successor stops.
#[derive(Clone)]
pub struct ExclusiveTask {
    stopping: CancellationToken,
    ended: CancellationToken,
}

impl ExclusiveTask {
    /// Stops `before` and, as soon as it has ended, starts `task`, which ends after `stopping` is cancelled.
    pub fn spawn_after(
        tracker: &TaskTracker,
        before: Option<&Self>,
        stopping: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (before, ended) = (before.cloned(), CancellationToken::new());
        // A task that panics has ended, too.
        let guard = ended.clone().drop_guard();
        tracker.spawn(async move {
            let _guard = guard;
            if let Some(before) = before {
                before.stopping.cancel();
                before.ended.cancelled().await;
            }
            task.await;
        });
        Self { stopping, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn starts_only_after_predecessor_has_ended() {
        let (tracker, at_work) = (TaskTracker::new(), Arc::new(AtomicUsize::new(0)));
        let mut shift = None;
        let mut last = CancellationToken::new();
        for _ in 0..100 {
            let (stopping, at_work) = (CancellationToken::new(), at_work.clone());
            last = stopping.clone();
            let told = stopping.clone();
            shift = Some(ExclusiveTask::spawn_after(&tracker, shift.as_ref(), stopping, async move {
                assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                told.cancelled().await;
                tokio::task::yield_now().await;
                at_work.fetch_sub(1, Ordering::SeqCst);
                panic!("and so does one that breaks");
            }));
        }
        last.cancel();
        shift.unwrap().ended.cancelled().await;
        assert_eq!(at_work.load(Ordering::SeqCst), 0);
    }
}
