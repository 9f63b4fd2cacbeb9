use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts the requests of a time.
#[derive(Debug, Default)]
pub(crate) struct WindowCounter(Mutex<Option<(Instant, u32)>>);

/// Position of a request in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowCount {
    /// 1 for the first one.
    pub(crate) count: u32,
    /// When the next time begins.
    pub(crate) resets_in: Duration,
}

impl WindowCounter {
    /// Counts a request in a window of this length.
    pub(crate) fn count_request(&self, time: Duration) -> WindowCount {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (since, before) = current.filter(|(since, _)| now < *since + time).unwrap_or((now, 0));
        let count = before.saturating_add(1);
        *current = Some((since, count));
        WindowCount { count, resets_in: since + time - now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counter_restarts_with_next_window() {
        let (limiter, minute) = (WindowCounter::default(), Duration::from_secs(60));
        let count = || limiter.count_request(minute);
        assert_eq!([count().count, count().count, count().resets_in.as_secs() as u32], [1, 2, 60]);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(count(), WindowCount { count: 4, resets_in: Duration::from_secs(10) });
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(count(), WindowCount { count: 1, resets_in: minute });
    }
}
