//! Waiting for a state, with a generous limit.

use std::time::{Duration, Instant};

/// Longest wait for anything; reached only by a test that fails.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks until there is something to be seen.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually_within(WAIT_TIMEOUT, what, &mut look).await
}

/// The same, with another patience.
pub async fn eventually_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
