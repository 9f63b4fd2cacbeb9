//! Per-message locks: at most one task processes a message.

use mailtrail_mail::TrackingId;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Set of locked messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageLocks(Arc<Mutex<HashSet<TrackingId>>>);

impl MessageLocks {
    /// Locks a message, unless it is locked.
    pub(crate) fn try_lock(&self, id: TrackingId) -> Option<MessageLock> {
        self.locked_ids().insert(id).then(|| MessageLock { id, locks: self.clone() })
    }

    fn locked_ids(&self) -> MutexGuard<'_, HashSet<TrackingId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lock on a message, released when dropped.
#[derive(Debug)]
pub struct MessageLock {
    id: TrackingId,
    locks: MessageLocks,
}

impl MessageLock {
    /// Returns the message's tracking id.
    pub const fn id(&self) -> TrackingId {
        self.id
    }
}

impl Drop for MessageLock {
    fn drop(&mut self) {
        self.locks.locked_ids().remove(&self.id);
    }
}
