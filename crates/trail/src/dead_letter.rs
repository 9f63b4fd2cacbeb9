use crate::hint_record::ReceivedHint;
use crate::provider_event::ProviderEvent;
use crate::received_event::{EventSource, ReceivedEvent};
use mailtrail_mail::{Timestamp, TrackingId};
use sha2::{Digest, Sha256};

/// An authentic provider event that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Upstream of the sending provider.
    pub upstream: String,
    /// Time of receipt.
    pub received_at: Timestamp,
    /// Source of the event.
    pub source: EventSource,
    /// One-time token, as in [`ReceivedEvent::token`].
    pub token: Option<(String, Timestamp, [u8; 16])>,
    /// Digest of the body.
    pub body_digest: [u8; 16],
    /// Reason why it cannot be decoded.
    pub reason: String,
}

/// Replay of an event on an operator's request. The event has new content now, or matches a message that it
/// did not match.
#[derive(Clone, Debug, PartialEq)]
pub struct EventReplay {
    /// Id of the event.
    pub id: TrackingId,
    /// Time of the replay.
    pub at: Timestamp,
    /// Requesting operator.
    pub operator: String,
    /// Reason of the request; may be empty.
    pub reason: String,
    /// Upstream of the sending provider.
    pub upstream: String,
    /// Source of the event.
    pub source: EventSource,
    /// Previous content; `None` for a dead letter.
    pub previous: Option<ProviderEvent>,
    /// New content.
    pub event: ProviderEvent,
}

impl ReceivedEvent {
    /// Returns the event's id, which holds its time of receipt.
    pub fn id(&self) -> TrackingId {
        event_id(self.received_at, &self.upstream, self.event.dedup_key.as_bytes())
    }
}

impl DeadLetter {
    /// Returns the event's id, which holds its time of receipt.
    pub fn id(&self) -> TrackingId {
        event_id(self.received_at, &self.upstream, &self.body_digest)
    }
}

impl DeadLetter {
    /// Returns whether an event has the same body, at whatever time it was received.
    pub fn has_same_body(&self, other: TrackingId) -> bool {
        let of_body = |id: TrackingId| u128::from_be_bytes(id.to_bytes()) & BODY_DIGEST_MASK;
        of_body(other) == of_body(self.id())
    }
}

/// Bits of an event's id that do not derive from the time.
const BODY_DIGEST_MASK: u128 = (1 << 80) - 1;

impl ReceivedHint {
    /// Returns the hint's id among events, which holds its time of receipt.
    pub fn id(&self) -> TrackingId {
        event_id(self.received_at, &self.source, self.dedup_key.as_bytes())
    }
}

/// Derives an id from the event alone, so that the event has the same id whenever it is read from the
/// journal.
fn event_id(at: Timestamp, upstream: &str, identity: &[u8]) -> TrackingId {
    let mut digest = Sha256::new();
    digest.update((upstream.len() as u64).to_be_bytes());
    digest.update(upstream.as_bytes());
    digest.update(identity);
    let mut random = [0; 16];
    random[6..].copy_from_slice(&digest.finalize()[..10]);
    TrackingId::new(at, u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_depends_on_time_upstream_and_dedup_key() {
        let at = Timestamp::from_millis(1_789_387_199_123);
        let id = event_id(at, "mailgun", b"one");
        assert_eq!((id, id.timestamp()), (event_id(at, "mailgun", b"one"), at));
        let others = [
            event_id(at, "mailgun", b"two"),
            event_id(at, "mailgu", b"none"),
            event_id(Timestamp::from_millis(at.as_millis() + 1), "mailgun", b"one"),
        ];
        assert!(!others.contains(&id));
    }
}
