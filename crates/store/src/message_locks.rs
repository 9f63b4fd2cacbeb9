//! Who works on which send: one at a time.

use mailtrail_mail::TrackingId;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sends that somebody works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hands(Arc<Mutex<HashSet<TrackingId>>>);

impl Hands {
    /// Takes a send, unless somebody has it.
    pub(crate) fn take(&self, id: TrackingId) -> Option<Grip> {
        self.sends().insert(id).then(|| Grip { id, hands: self.clone() })
    }

    fn sends(&self) -> MutexGuard<'_, HashSet<TrackingId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A send in somebody's hands, until this is dropped.
#[derive(Debug)]
pub struct Grip {
    id: TrackingId,
    hands: Hands,
}

impl Grip {
    /// Which one.
    pub const fn id(&self) -> TrackingId {
        self.id
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        self.hands.sends().remove(&self.id);
    }
}
