//! A coalescing, lossy wake-up signal between tasks. Receivers must re-read the store.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A wake-up signal that one task sends and another waits for.
#[derive(Clone, Debug, Default)]
pub struct Wakeup(Arc<Notify>);

impl Wakeup {
    /// Sends a signal; without a waiting task it is stored for the next one.
    pub fn notify(&self) {
        self.0.notify_one();
    }

    /// Waits for a signal, at most for `longest`.
    pub async fn wait_timeout(&self, longest: Duration) {
        // Timed out or notified: the caller re-reads the store in both cases.
        let _ = tokio::time::timeout(longest, self.0.notified()).await;
    }
}
