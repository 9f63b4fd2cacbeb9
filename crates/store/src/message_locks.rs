//! Who works on which send: one at a time.

use mailtrail_mail::TrackingId;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sends that somebody works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageLocks(Arc<Mutex<HashSet<TrackingId>>>);

impl MessageLocks {
    /// Takes a send, unless somebody has it.
    pub(crate) fn try_lock(&self, id: TrackingId) -> Option<MessageLock> {
        self.locked_ids().insert(id).then(|| MessageLock { id, locks: self.clone() })
    }

    fn locked_ids(&self) -> MutexGuard<'_, HashSet<TrackingId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A send in somebody's hands, until this is dropped.
#[derive(Debug)]
pub struct MessageLock {
    id: TrackingId,
    locks: MessageLocks,
}

impl MessageLock {
    /// Which one.
    pub const fn id(&self) -> TrackingId {
        self.id
    }
}

impl Drop for MessageLock {
    fn drop(&mut self) {
        self.locks.locked_ids().remove(&self.id);
    }
}
