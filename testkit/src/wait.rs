//! Waiting for a state, with a generous limit.

use std::time::{Duration, Instant};

/// Longest wait for a state; only a failing test reaches it.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls `look` until it returns a value.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually_within(WAIT_TIMEOUT, what, &mut look).await
}

/// Calls `look` until it returns a value, with a limit of its own.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
