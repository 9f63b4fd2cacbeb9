//! Limits and counts the SMTP connections of all listeners.

use mailtrail_smtp::Limits;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The conversations of all listeners.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimiter {
    per_ip: Arc<Mutex<HashMap<IpAddr, usize>>>,
    sessions: TaskTracker,
    /// Those of them that began since [`Self::outlast`] was called last.
    recent_sessions: Arc<Mutex<TaskTracker>>,
    /// Set when we stop and no session may begin another message.
    pub(super) draining: CancellationToken,
}

impl ConnectionLimiter {
    pub(super) fn spawn_session(&self, conversation: impl Future<Output = ()> + Send + 'static) {
        let latest = self.recent_sessions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.sessions.spawn(latest.track_future(conversation));
    }

    /// Waits until the current sessions have ended, at most `longest`. Later sessions are not waited for.
    pub async fn wait_for_current(&self, longest: Duration) {
        let present =
            std::mem::take(&mut *self.recent_sessions.lock().unwrap_or_else(PoisonError::into_inner));
        present.close();
        // Remaining sessions are handled by `drain`.
        let _ = timeout(longest, present.wait()).await;
    }

    /// Waits for the end of all sessions during shutdown, with a limit. A session within a series of messages may
    /// continue for a grace period and then finish its current message.
    pub async fn drain(&self) {
        self.sessions.close();
        if timeout(DRAIN_GRACE, self.sessions.wait()).await.is_err() {
            self.draining.cancel();
            let _ = timeout(DRAIN_TIMEOUT, self.sessions.wait()).await;
        }
    }

    pub(super) fn acquire(&self, ip: IpAddr, limits: &Limits) -> Option<ConnectionPermit> {
        let mut connections = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = connections.values().sum();
        let here = connections.get(&ip).copied().unwrap_or_default();
        if all >= limits.max_connections || here >= limits.max_connections_per_ip {
            return None;
        }
        connections.insert(ip, here + 1);
        Some(ConnectionPermit { limiter: self.clone(), ip })
    }
}

/// Permit of one connection; released on drop.
pub struct ConnectionPermit {
    limiter: ConnectionLimiter,
    ip: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.limiter.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = connections.get_mut(&self.ip) {
            *here -= 1;
            if *here == 0 {
                connections.remove(&self.ip);
            }
        }
    }
}

/// Grace period for series of messages during shutdown: Odoo fails the message permanently if a session ends within it.
pub const DRAIN_GRACE: Duration = Duration::from_secs(20);

/// For the messages that sessions are within then.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
