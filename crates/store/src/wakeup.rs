//! A bell between tasks. It may be lost or ring once for many: whoever hears it looks into the store.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A bell that one task rings and another waits for.
#[derive(Clone, Debug, Default)]
pub struct Wakeup(Arc<Notify>);

impl Wakeup {
    /// Rings; a ring while nobody waits is kept for the next to come.
    pub fn notify(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring, at most for `longest`.
    pub async fn wait_timeout(&self, longest: Duration) {
        // Elapsed or rung: the caller looks either way.
        let _ = tokio::time::timeout(longest, self.0.notified()).await;
    }
}
