use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counts the requests of a time.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<Option<(Instant, u32)>>);

/// Where a request stands in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// 1 for the first one.
    pub(crate) count: u32,
    /// When the next time begins.
    pub(crate) ends: Duration,
}

impl Limiter {
    /// Counts a request of a time that takes so long.
    pub(crate) fn count(&self, time: Duration) -> Seen {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (since, before) = current.filter(|(since, _)| now < *since + time).unwrap_or((now, 0));
        let count = before.saturating_add(1);
        *current = Some((since, count));
        Seen { count, ends: since + time - now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_time_begins_anew() {
        let (limiter, minute) = (Limiter::default(), Duration::from_secs(60));
        let count = || limiter.count(minute);
        assert_eq!([count().count, count().count, count().ends.as_secs() as u32], [1, 2, 60]);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(count(), Seen { count: 4, ends: Duration::from_secs(10) });
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(count(), Seen { count: 1, ends: minute });
    }
}
