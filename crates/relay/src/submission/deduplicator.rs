//! The guard against a client that hands in again what it had handed in before: because an answer was lost, or because
//! somebody pressed the button twice.
//!
//! A recipient is a duplicate when the same client sent the same body under the same Message-ID to it within the
//! window, and that mail has not failed.

use mailtrail_mail::{Timestamp, TrackingId};
use mailtrail_store::{CommitError, Message, ReadError, Store};
use mailtrail_trail::{Accepted, Repeated};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// What all listeners share.
pub struct Duplicates {
    window: Duration,
    hasher: RandomState,
    turns: [Mutex<()>; TURNS],
}

impl Duplicates {
    /// Looks for messages of at most that age.
    pub fn new(window: Duration) -> Self {
        Self { window, hasher: RandomState::new(), turns: [const { Mutex::const_new(()) }; TURNS] }
    }

    /// Keeps what is new of a message, and notes what is not; the id that the client is to hear.
    pub async fn accept(
        &self,
        store: &Store,
        mut accepted: Accepted,
        message: Message,
        now: Timestamp,
    ) -> Result<TrackingId, NotKept> {
        let id = accepted.send.id;
        let _turn = self.turn(&accepted).await;
        let mut first = None;
        for repeated in self.take_out(store, &mut accepted, now)? {
            tracing::info!(id = %repeated.id, client = accepted.send.client, "handed in again, not sent again");
            first = Some(repeated.id);
            store.repeat(repeated).await?;
        }
        match first.filter(|_| accepted.recipients.is_empty()) {
            Some(first) => Ok(first),
            None => store.accept_and_apply(accepted, message).await.map(|()| id).map_err(NotKept::from),
        }
    }

    /// Messages of one Message-ID are looked for and kept one after the other.
    async fn turn(&self, accepted: &Accepted) -> MutexGuard<'_, ()> {
        let turn = self.hasher.hash_one(accepted.send.message_id.as_ref().map(|id| id.as_str()));
        self.turns[turn as usize % TURNS].lock().await
    }

    /// Takes the recipients that are duplicates out of `accepted`; what they repeat, the newest first.
    fn take_out(
        &self,
        store: &Store,
        accepted: &mut Accepted,
        now: Timestamp,
    ) -> Result<Vec<Repeated>, ReadError> {
        let mut repeated = Vec::new();
        let Some(message_id) = &accepted.send.message_id else { return Ok(repeated) };
        for id in store.by_message_id(message_id, LOOKED_AT)? {
            if accepted.recipients.is_empty() || now.since(id.timestamp()) > self.window {
                break;
            }
            repeated.extend(self.repeats(store, accepted, id, now)?);
        }
        Ok(repeated)
    }

    fn repeats(
        &self,
        store: &Store,
        accepted: &mut Accepted,
        id: TrackingId,
        now: Timestamp,
    ) -> Result<Option<Repeated>, ReadError> {
        let Some(trail) = store.trail(id)? else { return Ok(None) };
        if (&trail.send.client, trail.send.fingerprint) != (&accepted.send.client, accepted.send.fingerprint)
        {
            return Ok(None);
        }
        let mut recipients = Vec::new();
        for (place, earlier) in (0u16..).zip(&trail.recipients) {
            // Whoever sends again what failed means it.
            if earlier.state().is_failure() {
                continue;
            }
            let folded = earlier.address.folded();
            if accepted.leave_out(|address| address.folded() == folded) {
                recipients.push(place);
            }
        }
        let peer = accepted.send.peer;
        Ok((!recipients.is_empty()).then_some(Repeated { id, at: now, peer, recipients }))
    }
}

/// Why a message was not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// It cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It cannot be compared.
    #[error("duplicates cannot be looked for: {0}")]
    Read(#[from] ReadError),
}

/// Message-IDs that may be looked for at once.
const TURNS: usize = 64;
/// Sends of one Message-ID that are looked at, the newest first.
const LOOKED_AT: usize = 100;
