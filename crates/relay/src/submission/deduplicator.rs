//! Detects messages that a client submits twice, because a reply was lost or a user repeated the action.
//!
//! A recipient is a duplicate if the same client sent the same body with the same Message-ID to it within the window,
//! and that delivery has not failed.

use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_store::{CommitError, MessageBody, ReadError, Store};
use mailtrail_trail::{AcceptedMessage, DuplicateSubmission};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// What all listeners share.
pub struct Deduplicator {
    window: Duration,
    hasher: RandomState,
    locks: [Mutex<()>; LOCK_STRIPES],
}

impl Deduplicator {
    /// Creates a deduplicator for messages up to this age.
    pub fn new(window: Duration) -> Self {
        Self { window, hasher: RandomState::new(), locks: [const { Mutex::const_new(()) }; LOCK_STRIPES] }
    }

    /// Stores the new recipients of a message and records the duplicates. Returns the id for the reply.
    pub async fn store_unique(
        &self,
        store: &Store,
        mut accepted: AcceptedMessage,
        message: MessageBody,
        now: Timestamp,
    ) -> Result<TrackingId, EnqueueError> {
        let id = accepted.message.id;
        let _turn = self.lock_message_id(&accepted).await;
        let mut first = None;
        for repeated in self.remove_duplicates(store, &mut accepted, now)? {
            tracing::info!(id = %repeated.id, client = accepted.message.client, "handed in again, not sent again");
            first = Some(repeated.id);
            store.record_duplicate(repeated).await?;
        }
        match first.filter(|_| accepted.recipients.is_empty()) {
            Some(first) => Ok(first),
            None => {
                store.put_message_applied(accepted, message).await.map(|()| id).map_err(EnqueueError::from)
            }
        }
    }

    /// Locks a Message-ID, so that its messages are checked and stored one after another.
    async fn lock_message_id(&self, accepted: &AcceptedMessage) -> MutexGuard<'_, ()> {
        let turn = self.hasher.hash_one(accepted.message.message_id.as_ref().map(|id| id.as_str()));
        self.locks[turn as usize % LOCK_STRIPES].lock().await
    }

    /// Removes duplicate recipients from `accepted`. Returns the earlier messages, the newest first.
    fn remove_duplicates(
        &self,
        store: &Store,
        accepted: &mut AcceptedMessage,
        now: Timestamp,
    ) -> Result<Vec<DuplicateSubmission>, ReadError> {
        let mut repeated = Vec::new();
        let Some(message_id) = &accepted.message.message_id else { return Ok(repeated) };
        for id in store.find_by_message_id(message_id, MAX_CANDIDATES)? {
            if accepted.recipients.is_empty() || now.duration_since(id.timestamp()) > self.window {
                break;
            }
            repeated.extend(self.remove_duplicates_of(store, accepted, id, now)?);
        }
        Ok(repeated)
    }

    fn remove_duplicates_of(
        &self,
        store: &Store,
        accepted: &mut AcceptedMessage,
        id: TrackingId,
        now: Timestamp,
    ) -> Result<Option<DuplicateSubmission>, ReadError> {
        let Some(trail) = store.load_trail(id)? else { return Ok(None) };
        if (&trail.message.client, trail.message.body_fingerprint)
            != (&accepted.message.client, accepted.message.body_fingerprint)
        {
            return Ok(None);
        }
        let mut recipients = Vec::new();
        for (place, earlier) in (0u16..).zip(&trail.recipients) {
            // A repetition after a failure is intended.
            if earlier.state().is_failure() {
                continue;
            }
            let folded = earlier.address.to_folded();
            if accepted.remove_recipients(|address| address.to_folded() == folded) {
                recipients.push(place);
            }
        }
        let peer = accepted.message.peer;
        Ok((!recipients.is_empty()).then_some(DuplicateSubmission { id, at: now, peer, recipients }))
    }
}

/// Error that prevents storing a message.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// It cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It cannot be compared.
    #[error("duplicates cannot be looked for: {0}")]
    Read(#[from] ReadError),
}

/// Number of Message-IDs that can be locked at the same time.
const LOCK_STRIPES: usize = 64;
/// Maximum number of earlier messages with a Message-ID that are checked, the newest first.
const MAX_CANDIDATES: usize = 100;
